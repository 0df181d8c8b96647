"""Evaluates a checkpoint on data with labels, by the protocols you choose.

    python main.py --config=configs/evaluate.py --workdir=runs/digits

Time: on digits under a minute on 2 cores; linear on ImageNet is 120 epochs of forward
passes.
Result: a card per protocol and encoder in cards/ of the workdir, and tables that compare
it with a random encoder, raw pixels and the published number. Scores that are on a card
already are not measured again.
"""

from ml_collections import ConfigDict, config_dict

LINEAR = (
    ("epochs", int),
    ("batch_size", int),
    ("learning_rate", float),
    ("milestones", tuple),
    ("decay", float),
    ("crop_scale", tuple),
    ("flip", float),
    ("scaled", bool),
    ("std", float),
)
FINETUNE = (
    ("epochs", int),
    ("batch_size", int),
    ("learning_rate", float),
    ("head_rate", float),
    ("milestones", tuple),
    ("head_milestones", tuple),
    ("decay", float),
    ("weight_decay", float),
    ("crop_scale", tuple),
    ("flip", float),
    ("std", float),
)


def get_config() -> ConfigDict:
    """Returns all keys; None stands for the value of the run or of the protocol."""
    config = ConfigDict()
    config.task = "evaluate"
    # A run's --workdir, or one step in its checkpoints, or a file of weights with
    # torchvision's names: .safetensors or .npz.
    config.checkpoint = ""
    # Names with commas between: knn, linear, semi and svm on `data`; voc07_svm, places and
    # transfer on data of their own; semi_1pct is the first half of semi, with 1 % of the
    # labels; MODULE:NAME is a protocol of yours. 'auto': knn, linear, semi, and svm up to
    # 100,000 training images.
    config.protocols = "auto"
    # Folder in which cards/ and label_lists/ are made; '': the checkpoint's workdir.
    config.output = ""
    # How often to repeat everything that depends on chance: first weights, order of the
    # images, lists of labels.
    config.num_seeds = 3
    config.parallel = "pmap"  # or shard_map; the numbers are the same
    config.num_devices = config_dict.placeholder(int)  # None: all of them
    # Threads that read and decode streamed pictures.
    config.num_threads = 4

    # As in configs/default.py. Without a name, the run's section is used, and every key
    # that is set here replaces the run's value; 0, False and '' count as set. None keeps
    # the run's value or, for a data set that is named here, the default.
    config.data = ConfigDict()
    config.data.name = ""  # needed for a file of weights
    config.data.folder = config_dict.placeholder(str)  # '' is the usual place
    # Of a TFDS set: the split to train on; '' is the usual one.
    config.data.split = config_dict.placeholder(str)
    config.data.num_train = config_dict.placeholder(int)  # 0: all
    # Of an image folder: whether top-level folders are classes, and the share of images
    # to test on.
    config.data.classes = config_dict.placeholder(bool)
    config.data.held_out = config_dict.placeholder(float)
    # For an image folder: see configs/default.py.
    config.data.stretch_depth = config_dict.placeholder(bool)
    config.data.outside_links = config_dict.placeholder(bool)
    config.data.scan = config_dict.placeholder(str)
    config.data.max_unreadable = config_dict.placeholder(float)

    # What the encoder sees of an image. None: as in training.
    config.view = ConfigDict()
    config.view.size = config_dict.placeholder(int)  # pixels, height and width
    config.view.mean = config_dict.placeholder(tuple)  # of the data, per channel
    config.view.std = config_dict.placeholder(tuple)  # of the data, per channel

    # Weighted kNN by features.
    config.knn = ConfigDict()
    # K: a number, or 'auto' (15 % of the mean class, at most 200). None: 200 for the
    # paper's data sets, 'auto' for others.
    config.knn.num_neighbors = config_dict.FieldReference(None, object)
    config.knn.temperature = 0.07  # sigma

    # None: the protocol's value, see evaluation/protocols/. evaluation/recipes.py says what
    # each key means.
    config.linear = _unset(LINEAR)  # for linear, places and transfer
    config.semi = _unset(FINETUNE)  # for semi and semi_1pct
    config.finetune = _unset(FINETUNE)  # for transfer

    # For protocols that bring their own data.
    config.other = ConfigDict()
    config.other.tfds_folder = ""  # of TFDS's data sets; '' is the usual place
    # 'places365' from TFDS, or the folder of Places205, which holds train/ and val/ with a
    # folder per class.
    config.other.places = "places365"
    config.other.transfer_sets = "cifar10,cifar100,caltech101,cub,pets,flowers,cars,dtd"
    return config.lock()


def _unset(keys: tuple[tuple[str, type], ...]) -> ConfigDict:
    return ConfigDict({name: config_dict.placeholder(kind) for name, kind in keys})
