"""Weights or memory of a run, as a file for other programs.

    python main.py --config=configs/export.py --workdir=runs/digits

Weights have torchvision's names. The file is run beside the checkpoint on fixed images;
the largest difference is written into FILE.json, and above 1e-4 there is no file.
Time: seconds.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the arguments of `export`; the run's config is read from its checkpoint."""
    config = ConfigDict()
    config.task = "export"
    # A run's --workdir, for its newest checkpoint; or one step: DIR/checkpoints/200.
    config.checkpoint = ""
    # 'backbone'; 'encoder', with the head as fc; 'memory': the method's arrays and the
    # sample ids.
    config.what = "backbone"
    # 'safetensors', 'npz' or 'onnx'; '': safetensors, or npz for the memory.
    config.format = ""
    # The file to write; '': in the workdir, e.g. backbone-200.safetensors.
    config.output = ""
    return config.lock()
