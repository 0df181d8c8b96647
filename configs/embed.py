"""Features of new pictures, and the training images that they are most like.

    python main.py --config=configs/embed.py --workdir=runs/digits \
        --config.data.folder=DIR

Time: that of decoding, and of one pass of the network. The first time the training
images are embedded too, and their features and embeddings are kept in features/ of the
workdir (of weights: in a folder WEIGHTS.features): float32, 8.7 kB an image with
ResNet-50, 11 GB for ImageNet. They are made again when anything that they depend on has
changed.

Result: OUTPUT.npz with a row per picture: `ids` (paths in the folder), `features` (of
the backbone), and with a run's checkpoint `embeddings` (of the head, of length 1).
Compared with training images, or with the pictures of `compare_with`: `neighbors`
(their numbers, most similar first), `similarities` (cosines), and, where they have
names, `neighbor_ids`. OUTPUT.npz.json beside it says which images the numbers are of.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The arguments of `embed_folder`; None stands for what the run has."""
    config = ConfigDict()
    config.task = "embed"
    # A run's --workdir, or one step in its checkpoints, or a file of weights with
    # torchvision's names: .safetensors or .npz.
    config.checkpoint = ""
    # The pictures, nested or flat: --config.data.folder=DIR, as in training, sets it too.
    config.folder = ""
    # The file; '': embedded.npz in the run's workdir.
    config.output = ""
    # Training images to name for each picture; 0: none.
    config.num_neighbors = 10
    # Similarity is the cosine of 'features' (of the backbone), or of 'embeddings' (of
    # the head, which a file of weights lacks).
    config.by = "features"
    # A folder of pictures to compare with in place of the training images: for weights
    # without a run, or where the training images are gone. '': the training images.
    config.compare_with = ""

    # How a picture is given to the encoder.
    config.view = ConfigDict()
    config.view.size = config_dict.placeholder(int)  # pixels, height and width
    config.view.mean = config_dict.placeholder(tuple)  # of the data, per channel
    config.view.std = config_dict.placeholder(tuple)  # likewise
    # Share of the shorter side that is looked at, in the middle. None: 1.0 below 64
    # pixels, 7/8 otherwise and where the run learnt from an image folder.
    config.share = config_dict.placeholder(float)
    config.num_devices = config_dict.placeholder(int)  # None: all of them
    return config.lock()
