"""Which splits a profile builds."""

from bench.refmoji import prepare


def test_the_sealed_split_is_drawn_from_its_own_seed_in_a_root_of_its_own(profile_in, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(prepare, "build", lambda *args, **more: built.append((args, more)))
    profile = profile_in(tmp_path / "sealed")
    prepare.prepare_data(profile, train=False)
    profile.data.test_seed = 7
    prepare.prepare_data(profile, train=False)
    assert [(args[2], more["seed"]) for args, more in built] == [(None, 0), (["test"], 7)]
