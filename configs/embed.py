"""Features of new pictures, and the training images that they resemble most.

    python main.py --config=configs/embed.py --workdir=runs/digits \
        --config.data.folder=DIR

Time: decoding, and one pass of the network. The first call also embeds the training
images, and keeps their features and embeddings in features/ of the workdir (for a file of
weights, in the folder WEIGHTS.features): float32, 8.7 kB an image with ResNet-50, 11 GB
for ImageNet. They are computed again when anything that they depend on changes.

Result: OUTPUT.npz with a row per picture: `ids` (paths in the folder), `features` (of
the backbone), and with a run's checkpoint `embeddings` (of the head, of length 1).
Compared with training images, or with the pictures of `compare_with`: `neighbors`
(their numbers, most similar first), `similarities` (cosines), and, where they have
names, `neighbor_ids`. OUTPUT.npz.json beside it says which images the numbers are of.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Returns the arguments of `embed_folder`; None means the run's own value."""
    config = ConfigDict()
    config.task = "embed"
    # A run's --workdir, or one step in its checkpoints, or a file of weights with
    # torchvision's names: .safetensors or .npz.
    config.checkpoint = ""
    # The pictures, nested or flat: --config.data.folder=DIR, as in training, sets it too.
    config.folder = ""
    # The file to write; '': embedded.npz in the run's workdir.
    config.output = ""
    # How many training images to name for each picture; 0: none.
    config.num_neighbors = 10
    # Compare by the cosine of 'features' (the backbone's output), or of 'embeddings' (the
    # head's output, which a file of weights does not have).
    config.by = "features"
    # A folder of pictures to compare with instead of the training images, e.g. for weights
    # without a run. '': the training images.
    config.compare_with = ""

    # How a picture is shown to the encoder.
    config.view = ConfigDict()
    config.view.size = config_dict.placeholder(int)  # pixels, height and width
    config.view.mean = config_dict.placeholder(tuple)  # of the data, per channel
    config.view.std = config_dict.placeholder(tuple)  # of the data, per channel
    # The central part of the picture that the encoder sees, as a share of the shorter
    # side. None: 1.0 below 64 pixels; 7/8 above, and for runs on an image folder.
    config.share = config_dict.placeholder(float)
    config.num_devices = config_dict.placeholder(int)  # None: all of them
    return config.lock()
