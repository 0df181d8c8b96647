"""Every key, its default, and what it means; the values are ImageNet's.

The section `method` is in configs/methods/, a file for each method.

Each section holds exactly the keyword arguments of one function of the package,
so that a misspelt key is an error at the start.

Tags say where a value comes from: [paper] the paper; [code] the authors' released
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
    # What to do: 'pretrain'; 'plan' to print what it would take of memory; 'scan' to
    # list the picture files that cannot be used; 'preview' to draw augmented views;
    # 'replay' to run a step again that has ended the run of a workdir;
    # 'verify_resume' to try out in a few steps whether a run that is interrupted ends
    # with the same numbers on this machine.
    config.task = "pretrain"
    # Of 'preview': the PNG file to write; '': preview.png in the current folder.
    config.output = ""
    # One number fixes initial weights, order and augmentation.
    config.seed = 0
    # Weights to start from instead of random ones: a run's workdir, one step in its
    # checkpoints, or a .safetensors or .npz file with torchvision's names. Bank, graph
    # and all else are new.
    config.weights = ""
    # How the step is mapped over devices: 'pmap' or 'shard_map'.
    config.parallel = "pmap"
    # Devices to use; None: all of them. A CPU is made one per core, as far as each has
    # 16 images of a batch.
    config.num_devices = config_dict.placeholder(int)
    # Where views are made: 'device', or 'host': by OpenCV, in 8 bits. If the device is
    # a CPU, 'host' takes a third of the processor's time for it, or less.
    config.augmentation = "device"

    config.data = ConfigDict()
    # The data set, which every other config here names: docs/datasets.md lists the names.
    config.data.name = ""
    # Where the files lie; '' is the usual place, for TFDS ~/tensorflow_datasets. Of an
    # image folder it must be given.
    config.data.folder = ""
    # Of a TFDS set: what to train on, e.g. 'train[:10%]'; '' is the usual split.
    config.data.split = ""
    # Train on a random sample of so many images, which `seed` fixes; 0: on all.
    config.data.num_train = 0
    # Of an image folder: whether its topmost folders are classes, for kNN and purity.
    config.data.classes = False
    # Of an image folder: share that is not trained on; with classes, kNN is measured on
    # it. A folder with train/ and val/ (valid/, validation/, test/) needs no share: the
    # one is trained on, the other held out, and classes are the folders in them.
    config.data.held_out = 0.0
    # Of an image folder or a TFDS set: whether a picture whose values do not tell what is
    # white (floats, 32 bits, or 16 bits that use 14 or fewer) is stretched, so that its
    # darkest value is black and its lightest white; False refuses it by name.
    config.data.stretch_depth = False
    # Of an image folder: follow links that lead out of it; False: pass them over.
    config.data.outside_links = True
    # Of an image folder: how each picture is checked before the first step, once:
    # 'decode', or 'headers', which is enough to start with millions. Pictures that cannot
    # be used are named and left out. TFDS's sets were checked when they were prepared.
    config.data.scan = "decode"
    # Of an image folder: the largest share of pictures that may be left out so; above
    # it the run stops before the first step.
    config.data.max_unreadable = 0.001
    # What a run does whose workdir has a checkpoint of other images: 'refuse', which says
    # what has changed; or 'match': images that were there keep their rows of the memory,
    # new ones are embedded, and the run goes on. Images need names for it, as files and
    # TFDS's have. An epoch keeps its number of steps.
    config.data.on_change = "refuse"

    # In order: resized crop, jitter, grayscale, blur, flip, normalisation.
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
    config.augment.jitter_first = True  # False: grayscale before jitter
    config.augment.mean = (0.485, 0.456, 0.406)  # of the data, per channel [code]
    config.augment.std = (0.229, 0.224, 0.225)  # likewise [code]

    # Of a method with several kinds of views, by the method's names for them: what is
    # different from `augment`, e.g. config.views.small = ConfigDict({"size": 96}).
    config.views = ConfigDict()

    config.encoder = ConfigDict()
    config.encoder.depth = 50  # ResNet-18 or ResNet-50
    config.encoder.stem = "imagenet"  # 'imagenet', or 'cifar' up to 64 pixels
    config.encoder.width = 64  # channels of the first stage
    config.encoder.head = "mlp"  # 'linear' or 'mlp' [paper: both]
    config.encoder.hidden = 2048  # of the MLP head [code]
    config.encoder.dim = 128  # of the embedding [code]
    # Images over which BatchNorm takes its statistics, a divisor of the batch; 0: all
    # images of the batch. The number of devices does not matter. The released code has
    # 128 images on 4 GPUs [code].
    config.encoder.norm_group = 32
    config.encoder.dtype = "float32"  # 'bfloat16' computes the network in bf16

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.03  # [code]
    config.optimizer.momentum = 0.9  # [paper]
    config.optimizer.weight_decay = 1e-4  # on all parameters [code]
    # 'cosine' [code] or 'steps'. [ours]: the cosine falls in every step, the released
    # code's in every epoch.
    config.optimizer.schedule = "cosine"
    # Of 'steps': epochs, counted from 0, in which the rate falls; the released code says
    # 400, 600, 700 and counts from 1 [code].
    config.optimizer.milestones = (399, 599, 699)
    config.optimizer.decay = 0.1  # of 'steps' [code]
    config.optimizer.warmup_epochs = 0  # [code]
    # To train a run on after its end: epochs, counted from 0, at which the schedule
    # starts again, and the rate it then starts from [ours]. 60 and 0.03 with
    # train.epochs=100 is a cosine of 60 epochs and a second one of 40.
    config.optimizer.restart_epochs = ()
    config.optimizer.restart_rates = ()  # [ours]
    # Of a method that tells groups of parameters apart, by the method's names for them:
    # `rate`, a factor of the learning rate, `momentum` and `weight_decay`.
    config.optimizer.groups = ConfigDict()

    config.knn = ConfigDict()
    # K [paper], or 'auto': it follows N and the number of classes.
    config.knn.num_neighbors = config_dict.FieldReference(200, object)
    config.knn.temperature = 0.07  # sigma [paper]
    # Embed all training images anew for it; False: only against the bank, the paper's
    # monitor, which costs a pass over the held-out images alone.
    config.knn.embed_anew = True

    config.train = ConfigDict()
    # [code]: its option. [ours]: it counts from 1 to 799, so it trains one fewer.
    config.train.epochs = 800
    config.train.batch_size = 128  # B, over all devices [paper]
    # Epochs between kNN evaluations; 0: only before the first step and after the last.
    config.train.evaluate_every = 10
    config.train.checkpoint_every = 1000  # steps between checkpoints
    config.train.keep_checkpoints = 2  # the newest so many
    config.train.log_every = 100  # steps per row of metrics.jsonl, at most an epoch
    config.train.tensorboard = False  # event files for TensorBoard too
    # Threads that read, decode and crop pictures, and make the views of
    # augmentation='host'.
    config.train.num_threads = 4
    # Worker processes that do so, each with so many threads; 0: none, only threads of
    # this process.
    config.train.num_workers = 0
    # Stop, with a checkpoint, after so many steps of this call, from which the same
    # command goes on; 0: at the end.
    config.train.stop_after_steps = 0
    config.train.stop_after_hours = 0.0  # likewise
    # Where a workdir holds what is left of a run, and no checkpoint that can be read:
    # move that aside and begin at step 0. A run that can go on does so all the same.
    config.train.start_over = False
    methods.configure(config, method)
    return config.lock()
