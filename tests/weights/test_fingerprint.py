from m2dit_jax.weights.fingerprint import fingerprint


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
