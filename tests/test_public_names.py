"""What `import tl3d_keras` promises is there."""

import tl3d_keras


def test_every_public_name_is_there_and_listed():
    assert dir(tl3d_keras) == sorted(tl3d_keras.__all__)
    for name in tl3d_keras.__all__:
        assert getattr(tl3d_keras, name).__doc__ if name != "IGNORE" else tl3d_keras.IGNORE == 255
    assert not hasattr(tl3d_keras, "no_such_name")


def test_what_the_other_names_take_is_public_too():
    from tl3d_keras import Intensity, ModelInfo, Segmenter, Volume, inference, model_info

    assert Segmenter is inference.Segmenter and ModelInfo is model_info.ModelInfo
    assert Volume and Intensity("zscore")
