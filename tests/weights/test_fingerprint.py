from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint


def test_it_changes_with_names_sizes_and_contents_of_the_folders(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "other").mkdir()
    weights = tmp_path / "vae" / "weights"
    seen = [fingerprint(tmp_path, ["vae"])]
    for content in (b"", b"a", b"b", b"b" * 2**21, b"b" * (2**21 - 1) + b"c"):
        weights.write_bytes(content)
        seen.append(fingerprint(tmp_path, ["vae"]))
    weights.rename(tmp_path / "vae" / "renamed")
    seen.append(fingerprint(tmp_path, ["vae"]))
    assert len(set(seen)) == len(seen)
    (tmp_path / "other" / "weights").write_bytes(b"x")
    assert fingerprint(tmp_path, ["vae"]) == seen[-1]


def test_the_content_changes_with_any_byte(tmp_path):
    (tmp_path / "vae").mkdir()
    weights = tmp_path / "vae" / "weights"
    content = bytearray(3 * 2**20)
    weights.write_bytes(content)
    ends, whole = fingerprint(tmp_path, ["vae"]), content_fingerprint(tmp_path, ["vae"])
    content[3 * 2**19] = 1
    weights.write_bytes(content)
    assert fingerprint(tmp_path, ["vae"]) == ends
    assert content_fingerprint(tmp_path, ["vae"]) != whole
    changed = content_fingerprint(tmp_path, ["vae"])
    (tmp_path / "vae/digests.json").write_text("{}")  # belongs to no network
    assert content_fingerprint(tmp_path, ["vae"]) == changed
    assert fingerprint(tmp_path, ["vae"]) == ends
