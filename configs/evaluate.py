"""Evaluation of a checkpoint on data with labels, by the protocols of your choice.

    python main.py --config=configs/evaluate.py --config.checkpoint=runs/digits

Time: on digits under a minute on 2 cores; linear on ImageNet is 120 epochs forward.
Result: a card per protocol and encoder in cards/ of the workdir, and tables of them beside a
random encoder, raw pixels and the published number. What has a card already is not
measured again.
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
    """Returns all keys; None stands for what the run, or the protocol, has."""
    config = ConfigDict()
    config.task = "evaluate"
    # A run's workdir, or one step in its checkpoints, or a file of weights with
    # torchvision's names: .safetensors or .npz.
    config.checkpoint = ""
    # Some of knn, linear, semi, svm on `data`, and voc07_svm, places, transfer on data
    # of their own; commas between. semi_1pct is the first half of semi, 1 % of the
    # labels. 'auto': knn, linear, semi, and svm up to 100,000 training images.
    config.protocols = "auto"
    # Folder in which cards/ and label_lists/ are made; '': the workdir that the
    # checkpoint is of.
    config.output = ""
    # How often to repeat what depends on chance: first weights, order, lists of labels.
    config.num_seeds = 3
    config.parallel = "pmap"  # or shard_map; the numbers are the same
    config.num_devices = config_dict.placeholder(int)  # None: all of them
    # Threads that read and decode streamed pictures.
    config.num_threads = 4

    # As in configs/default.py. Without a name it is the run's section. Every other key
    # that is set takes the place of the run's value, 0, False and '' as well; None
    # leaves that value, or, of a data set that is named here, the default.
    config.data = ConfigDict()
    config.data.name = ""  # of a file of weights it must be given
    config.data.folder = config_dict.placeholder(str)  # '' is the usual place
    # Of a TFDS set: what to train on; '' is the usual split.
    config.data.split = config_dict.placeholder(str)
    config.data.num_train = config_dict.placeholder(int)  # 0: all
    # Of an image folder: whether topmost folders are classes; share to test on.
    config.data.classes = config_dict.placeholder(bool)
    config.data.held_out = config_dict.placeholder(float)
    # Of an image folder: see configs/default.py.
    config.data.stretch_depth = config_dict.placeholder(bool)
    config.data.outside_links = config_dict.placeholder(bool)
    config.data.scan = config_dict.placeholder(str)
    config.data.max_unreadable = config_dict.placeholder(float)

    # How an image is given to the encoder.
    config.view = ConfigDict()
    config.view.size = config_dict.placeholder(int)  # pixels, height and width
    config.view.mean = config_dict.placeholder(tuple)  # of the data, per channel
    config.view.std = config_dict.placeholder(tuple)  # likewise

    # Weighted kNN by features.
    config.knn = ConfigDict()
    # K: a number, or 'auto'; None: 200 of the paper's sets, 'auto' of others.
    config.knn.num_neighbors = config_dict.FieldReference(None, object)
    config.knn.temperature = 0.07  # sigma

    # None: the value of the protocol, in evaluation/protocols/. What each key means
    # stands in evaluation/recipes.py.
    config.linear = _unset(LINEAR)  # for linear, places and transfer
    config.semi = _unset(FINETUNE)  # for semi and semi_1pct
    config.finetune = _unset(FINETUNE)  # for transfer

    # Of protocols that have data of their own.
    config.other = ConfigDict()
    config.other.tfds_folder = ""  # where TFDS's sets lie; '' is the usual place
    # 'places365' by TFDS; or the folder of Places205: train/ and val/, and in them a
    # folder per class.
    config.other.places = "places365"
    config.other.transfer_sets = "cifar10,cifar100,caltech101,cub,pets,flowers,cars,dtd"
    return config.lock()


def _unset(keys: tuple[tuple[str, type], ...]) -> ConfigDict:
    return ConfigDict({name: config_dict.placeholder(kind) for name, kind in keys})
