"""Every key, its default, and what it means; ImageNet's values.

Each section holds exactly the keyword arguments of one function of the package, so a
misspelt key is an error at the start. The section `method` is in configs/methods/, one
file for each method.

Tags say where a value comes from: [paper] the paper; [code] the authors'
code (its defaults or its README's commands); [ours] neither.
"""

from ml_collections import ConfigDict, config_dict

from configs import methods


def get_config(method: str = "") -> ConfigDict:
    """Returns all keys. The other configs start from these and name their data set.

    Args:
      method: what follows the colon of --config=configs/DATA.py:METHOD; '' is Invariance
        Propagation. Its options are in configs/methods/METHOD.py.
    """
    config = ConfigDict()
    # What to do: 'pretrain' trains; 'plan' prints the memory that a run would take;
    # 'scan' lists the picture files that cannot be used; 'preview' draws augmented views;
    # 'replay' repeats the step that ended a run; 'verify_resume' takes a few steps to find
    # out whether an interrupted run ends with the same numbers on this machine.
    config.task = "pretrain"
    # The PNG file that 'preview' writes; '': preview.png in the current folder.
    config.output = ""
    # Fixes initial weights, order and augmentation.
    config.seed = 0
    # Weights to start from instead of random ones: a run's workdir, one step in its
    # checkpoints, or a .safetensors or .npz file with torchvision's names. Everything
    # else starts anew.
    config.weights = ""
    # How the step is mapped over devices: 'pmap' or 'shard_map'.
    config.parallel = "pmap"
    # How many devices to use; None: all of them. A CPU counts as one device per core, if
    # each gets at least 16 images of a batch.
    config.num_devices = config_dict.placeholder(int)
    # For 'plan': devices to plan for, which need not be here, such as 'v5e-8' or 'h100-4';
    # '': the devices that are here. `--help` lists them.
    config.topology = ""
    # Where views are made: on the 'device', or on the 'host' by OpenCV, in 8 bits. If the
    # device is a CPU, 'host' takes at most a third of the time.
    config.augmentation = "device"

    config.data = ConfigDict()
    # The data set, which every other config here names: docs/datasets.md lists the names.
    config.data.name = ""
    # The folder of the files; '' is the usual place, for TFDS ~/tensorflow_datasets. An
    # image folder has no usual place.
    config.data.folder = ""
    # For a TFDS set: what to train on, e.g. 'train[:10%]'; '' is the usual split.
    config.data.split = ""
    # Train on a random sample of this many images, which `seed` fixes; 0: on all.
    config.data.num_train = 0
    # For an image folder: whether its topmost folders are classes, which kNN and other
    # scores need.
    config.data.classes = False
    # For an image folder: the share of pictures to keep from training; with classes, kNN
    # is measured on them. A folder that holds train/ and val/ (valid/, validation/, test/)
    # needs no share: train/ is trained on, the other is held out, and the folders inside
    # them are the classes.
    config.data.held_out = 0.0
    # For an image folder or a TFDS set: some pictures do not tell which value is white
    # (floats, 32 bits, or 16 bits that use 14 or fewer). True stretches them, so that their
    # darkest value becomes black and their lightest white; False refuses them by name.
    config.data.stretch_depth = False
    # For 'plan': how many training images there will be, of a data set that is not here
    # yet; 0 reads the data set.
    config.data.num_examples = 0
    # For an image folder: follow links that lead out of it; False skips them.
    config.data.outside_links = True
    # For an image folder: how every picture is checked, once, before the first step:
    # 'decode' decodes it, 'headers' reads only its header, for millions of pictures.
    # Pictures that cannot be used are named and left out. TFDS checked its sets when it
    # prepared them.
    config.data.scan = "decode"
    # For an image folder: the largest share of pictures that may be left out. Above it
    # the run stops before the first step.
    config.data.max_unreadable = 0.001
    # If the images differ from those of the checkpoint in the workdir: 'refuse' says what
    # has changed and stops. 'match' continues: known images keep their rows of the memory,
    # new ones are embedded, and an epoch keeps its number of steps. It needs images with
    # names, such as files and TFDS sets.
    config.data.on_change = "refuse"

    # In order: resized crop, jitter, grayscale, blur, solarize, flip, normalisation.
    config.augment = ConfigDict()
    config.augment.size = 224  # pixels, height and width of a view
    config.augment.crop_scale = (0.2, 1.0)  # area of the crop [code]; (): off
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # its width / height [code]
    # For handwriting, 0: off [ours].
    config.augment.rotation = 0.0  # largest angle either way, in degrees
    config.augment.shear = 0.0  # largest lean either way, in pixels per row
    config.augment.stretch = 0.0  # largest part to grow or shrink by, per direction
    config.augment.flip = 0.5  # probability; 0: off [code]
    # Brightness, contrast, saturation, hue [code]; (): off.
    config.augment.jitter = (0.4, 0.4, 0.4, 0.1)
    config.augment.jitter_probability = 0.8  # [code]
    config.augment.grayscale = 0.2  # probability; 0: off [code]
    config.augment.blur = 0.5  # probability; 0: off [code]
    config.augment.blur_sigma = (0.1, 2.0)  # pixels [code]
    # Probability of inverting all values of one half and more; 0: off [ours].
    config.augment.solarize = 0.0
    config.augment.jitter_first = True  # False: grayscale before jitter
    config.augment.mean = (0.485, 0.456, 0.406)  # of the data, per channel [code]
    config.augment.std = (0.229, 0.224, 0.225)  # of the data, per channel [code]

    # For a method with several kinds of views: what differs from `augment` for each, by
    # the method's names for them, e.g. config.views.small = ConfigDict({"size": 96}).
    config.views = ConfigDict()

    config.encoder = ConfigDict()
    config.encoder.depth = 50  # ResNet-18 or ResNet-50; 6 to try things out
    config.encoder.stem = "imagenet"  # 'imagenet', or 'cifar' up to 64 pixels
    config.encoder.width = 64  # channels of the first stage
    config.encoder.head = "mlp"  # 'linear' or 'mlp' [paper: both]
    config.encoder.hidden = 2048  # of the MLP head [code]
    config.encoder.dim = 128  # of the embedding [code]
    # The number of images over which BatchNorm takes its statistics, a divisor of the
    # batch; 0: the whole batch. The number of devices does not matter. The authors' code
    # has 128 images on 4 GPUs [code].
    config.encoder.norm_group = 32
    config.encoder.dtype = "float32"  # 'bfloat16' computes the network in bf16

    config.optimizer = ConfigDict()
    # 'sgd', or 'lars' for batches of a thousand images and more.
    config.optimizer.name = "sgd"
    # For 'lars': the length of a step as a share of the parameter's norm.
    config.optimizer.trust = 0.001
    config.optimizer.learning_rate = 0.03  # [code]
    config.optimizer.momentum = 0.9  # [paper]
    # On all parameters [code]; with 'lars', not on biases and BatchNorm's.
    config.optimizer.weight_decay = 1e-4
    # 'cosine' [code] or 'steps'. [ours]: the rate follows the cosine in every step; the
    # authors' code changes it once in an epoch.
    config.optimizer.schedule = "cosine"
    # For 'steps': the epochs, counted from 0, in which the rate falls. The authors' code
    # says 400, 600, 700 and counts from 1 [code].
    config.optimizer.milestones = (399, 599, 699)
    config.optimizer.decay = 0.1  # for 'steps': the factor by which it falls [code]
    config.optimizer.warmup_epochs = 0  # [code]
    # Epochs at rate 0, before the warm-up: a method fills its memory first [ours].
    config.optimizer.still_epochs = 0
    # To train longer after the end of a run: the epochs, counted from 0, at which the
    # schedule starts again, and the rates it starts from [ours]. (60,) and (0.03,) with
    # train.epochs=100 give a cosine of 60 epochs and a second one of 40.
    config.optimizer.restart_epochs = ()
    config.optimizer.restart_rates = ()  # [ours]
    # For a method with several groups of parameters: what differs for each, by the
    # method's names for them: `rate`, a factor of the learning rate; `momentum`;
    # `weight_decay`.
    config.optimizer.groups = ConfigDict()

    config.knn = ConfigDict()
    # K [paper], or 'auto', which follows N and the number of classes.
    config.knn.num_neighbors = config_dict.FieldReference(200, object)
    config.knn.temperature = 0.07  # sigma [paper]
    # True embeds all training images each time. False compares with the method's memory,
    # as the paper does, so that only the held-out images are embedded.
    config.knn.embed_anew = True

    config.train = ConfigDict()
    # The authors' default [code]; their loop runs from 1 to 799, one epoch fewer [ours].
    config.train.epochs = 800
    config.train.batch_size = 128  # B, over all devices [paper]
    # Epochs between kNN evaluations; 0: only before the first step and after the last.
    config.train.evaluate_every = 10
    config.train.checkpoint_every = 1000  # steps between checkpoints
    config.train.keep_checkpoints = 2  # how many of the newest to keep
    # Whether every host copies the whole memory for a checkpoint. False, for a memory that
    # no single host can hold: each process writes and reads its own rows, in a --workdir
    # that all of them share.
    config.train.gather_checkpoints = True
    config.train.log_every = 100  # steps per row of metrics.jsonl, at most an epoch
    config.train.tensorboard = False  # event files for TensorBoard too
    # Threads that read, decode and crop pictures, and make views on the host.
    config.train.num_threads = 4
    # Worker processes that do this, each with `num_threads` threads; 0: this process
    # does it.
    config.train.num_workers = 0
    # Save and stop after this many steps of this call; the same command continues. 0:
    # train to the end.
    config.train.stop_after_steps = 0
    config.train.stop_after_hours = 0.0  # the same in hours
    # If a workdir holds traces of a run but no readable checkpoint: move them aside and
    # begin at step 0. A run that can continue does so in any case.
    config.train.start_over = False
    methods.configure(config, method)
    return config.lock()
