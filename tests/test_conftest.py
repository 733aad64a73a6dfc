from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()


@pytest.fixture
def project(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_in="""
        import pytest

        def test_pass(): pass

        def test_missing(): pytest.skip("no ffmpeg")

        @pytest.mark.skipif(True, reason="slow")
        def test_mark(): pass

        def test_shared(): pytest.skip("needs ../shared/reference")

        @pytest.mark.skip(reason="optional extra: cuda")
        def test_extra(): pass

        @pytest.mark.xfail
        def test_xfail(): assert False
        """,
        test_module="""
        import pytest

        pytest.importorskip("no_such_module")
        """,
    )
    return pytester


def test_ci_fails_skips_without_a_known_reason(project, monkeypatch):
    monkeypatch.setenv("CI", "true")
    result = project.runpytest("-p", "no:xdist", "--continue-on-collection-errors")
    # skips by a mark and by a whole module happen before the test proper: pytest says "error"
    result.assert_outcomes(passed=1, failed=1, skipped=2, xfailed=1, errors=2)
    result.stdout.fnmatch_lines(["*skipped in CI: no ffmpeg*", "*skipped in CI: slow*"])
    result.stdout.fnmatch_lines(["*skipped in CI: *no_such_module*"])


def test_skips_are_fine_elsewhere(project, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    result = project.runpytest("-p", "no:xdist")
    result.assert_outcomes(passed=1, skipped=5, xfailed=1)
