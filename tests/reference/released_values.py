"""What the authors' code has, by file and line, for all that is tagged [code].

WangFeng18/InvariancePropagation at commit cad924e. `written` is how it stands there;
`value` is the same in this project's terms, where epochs are counted from 0. Keys with
`:odc:` are those of ODC, in open-mmlab/OpenSelfSup at commit 1db69ec, and with `:coke:`
those of CoKe, in idstcv/CoKe at commit 77228ae.
"""

from typing import Any, NamedTuple


class Released(NamedTuple):
    value: Any
    written: str
    place: str  # file:line


_RATES = (
    "epochs from 1 (main.py:148); 'epoch >= milestone' (utils.py:214), so one earlier"
)
_COMMAND = "README.md:30,32,34 (CIFAR-10, CIFAR-100, SVHN)"
# The default of main_moco_unmix.py is 0.0, but its command, run.sh:2, passes 0.5.
_UNMIX = "of szq0214/Un-Mix at commit 0911f77"

CONFIGS = {
    "default:augment.crop_scale": Released(
        (0.2, 1.0),
        "minimum_crop = 0.2; scale=(minimum_crop, 1.)",
        "datasets/imagenet.py:54,58",
    ),
    "default:augment.crop_ratio": Released(
        (3 / 4, 4 / 3), "not given: torchvision's default", "datasets/imagenet.py:58"
    ),
    "default:augment.flip": Released(
        0.5, "RandomHorizontalFlip()", "datasets/imagenet.py:64"
    ),
    "default:augment.jitter": Released(
        (0.4, 0.4, 0.4, 0.1),
        "ColorJitter(0.4, 0.4, 0.4, 0.1)",
        "datasets/imagenet.py:60",
    ),
    "default:augment.jitter_probability": Released(
        0.8, "RandomApply(..., p=0.8)", "datasets/imagenet.py:61"
    ),
    "default:augment.grayscale": Released(
        0.2, "RandomGrayscale(p=0.2)", "datasets/imagenet.py:62"
    ),
    "default:augment.blur": Released(
        0.5, "RandomApply([GaussianBlur([.1, 2.])], p=0.5)", "datasets/imagenet.py:63"
    ),
    "default:augment.blur_sigma": Released(
        (0.1, 2.0), "uniform from .1 to 2.", "datasets/imagenet.py:49,63"
    ),
    "default:augment.mean": Released(
        (0.485, 0.456, 0.406), "mean=[0.485, 0.456, 0.406]", "datasets/imagenet.py:66"
    ),
    "default:augment.std": Released(
        (0.229, 0.224, 0.225), "std=[0.229, 0.224, 0.225]", "datasets/imagenet.py:66"
    ),
    "default:encoder.hidden": Released(
        2048, "Linear(..., 2048)", "models/resnet.py:124"
    ),
    "default:encoder.dim": Released(128, "low_dim=128", "models/resnet.py:102"),
    "default:encoder.norm_group": Released(
        32,
        "--batch_size 128, --gpus 0,1,2,3, DataParallel: BatchNorm sees a GPU's images",
        "main.py:35,45,117",
    ),
    "default:method.bank_momentum": Released(0.5, "--m 0.5", "main.py:50"),
    "default:coke:method.num_small": Released(
        6, "--coke-snum 6", "run_multi_view.sh:14"
    ),
    "default:coke:method.num_clusters": Released(
        (3000, 4000, 5000), "--coke-k 3000 4000 5000", "run_single_view.sh:9"
    ),
    "default:coke:method.least_size": Released(
        0.4, "--coke-ratio 0.4", "run_single_view.sh:13"
    ),
    "default:coke:method.dual_rate": Released(
        20.0, "--coke-dual-lr 20", "run_single_view.sh:12"
    ),
    "default:coke:method.temperature": Released(
        0.1, "--coke-t 0.1", "run_single_view.sh:8"
    ),
    "default:coke:method.prediction_weight": Released(
        1.0, "--coke-beta 1", "run_single_view.sh:15"
    ),
    "default:coke:method.average_from": Released(
        801, "--coke-stage 801", "run_single_view.sh:10"
    ),
    "default:coke:method.num_slots": Released(
        5, "--coke-ls 5", "run_single_view.sh:14"
    ),
    "default:coke:method.slot_temperature": Released(
        0.5, "--coke-tt 0.5", "run_single_view.sh:11"
    ),
    "default:coke:method.hard_weight": Released(
        0.2, "--coke-alpha 0.2", "run_double_view.sh:12"
    ),
    "default:coke:method.large_weight": Released(
        0.5, "--coke-beta 0.5", "run_multi_view.sh:13"
    ),
    "default:coke:augment.crop_scale": Released(
        (0.08, 1.0),
        "RandomResizedCrop(224, scale=(0.08, 1.))",
        "main_single_view.py:241",
    ),
    "default:coke:augment.jitter": Released(
        (0.8, 0.8, 0.8, 0.2),
        "ColorJitter(0.8, 0.8, 0.8, 0.2)",
        "main_single_view.py:243",
    ),
    "default:coke:views.first": Released(
        {"jitter": (0.4, 0.4, 0.2, 0.1), "blur": 1.0},
        "ColorJitter(0.4, 0.4, 0.2, 0.1); GaussianBlur, p=1.0",
        "main_double_view.py:236,239",
    ),
    "default:coke:views.second": Released(
        {"jitter": (0.4, 0.4, 0.2, 0.1), "blur": 0.1, "solarize": 0.2},
        "ColorJitter(0.4, 0.4, 0.2, 0.1); GaussianBlur, p=0.1; Solarize, p=0.2",
        "main_double_view.py:248,251,252",
    ),
    "default:coke:views.small": Released(
        {"size": 96, "crop_scale": (0.05, 0.6)},
        "RandomResizedCrop(96, scale=(0.05, 0.6))",
        "main_multi_view.py:265",
    ),
    "default:coke:encoder.norm_group": Released(
        0, "SyncBatchNorm.convert_sync_batchnorm(model)", "main_single_view.py:179"
    ),
    "cifar10:coke:encoder.norm_group": Released(
        0, "SyncBatchNorm.convert_sync_batchnorm(model)", "main_single_view.py:179"
    ),
    "default:coke:optimizer.name": Released(
        "lars", "coke.optimizer.LARS(...)", "main_single_view.py:212"
    ),
    "default:coke:optimizer.trust": Released(
        0.001, "trust_coefficient=0.001", "coke/optimizer.py:15"
    ),
    "default:coke:optimizer.learning_rate": Released(
        1.6, "--lr 1.6", "run_single_view.sh:5"
    ),
    "default:coke:optimizer.momentum": Released(
        0.9, "--momentum, default=0.9", "main_single_view.py:56"
    ),
    "default:coke:optimizer.weight_decay": Released(
        1e-6, "--wd, default=1e-6", "main_single_view.py:58"
    ),
    "default:coke:optimizer.still_epochs": Released(
        1, "if epoch == 0: lr = 0", "main_single_view.py:396-397"
    ),
    "default:coke:optimizer.warmup_epochs": Released(
        10,
        "warmup_epoch = 11, with epoch 0 at rate 0",
        "main_single_view.py:389,394-395",
    ),
    "default:coke:train.epochs": Released(
        1001, "--epochs 1001", "run_single_view.sh:7"
    ),
    "default:coke:train.batch_size": Released(
        1024, "--batch-size 1024", "run_single_view.sh:6"
    ),
    "default:method.bank_start": Released(
        "uniform", "rand in -stdv to stdv", "objective.py:172-173"
    ),
    "default:unmix:method.alpha": Released(
        1.0, "args.beta = 1.0; beta(args.beta, args.beta)", f"unmix_c10.py:331 {_UNMIX}"
    ),
    "default:unmix:method.global_probability": Released(
        0.5, "--prob 0.5; r < args.prob: global", f"unmix_c10.py:40,334 {_UNMIX}"
    ),
    "default:optimizer.learning_rate": Released(0.03, "--lr 0.03", "main.py:43"),
    "default:optimizer.weight_decay": Released(
        1e-4, "--weight_decay 1e-4", "README.md:12"
    ),
    "default:optimizer.schedule": Released("cosine", "--cos", "README.md:12"),
    "default:optimizer.milestones": Released(
        (399, 599, 699), f"--lr_decay_steps 400,600,700; {_RATES}", "main.py:37"
    ),
    "default:optimizer.decay": Released(0.1, "--lr_decay_rate 0.1", "main.py:44"),
    "default:optimizer.warmup_epochs": Released(0, "warmup_epoch=0", "utils.py:203"),
    "default:train.epochs": Released(
        800, "--max_epoch 800; range(1, 800) are 799", "main.py:36,168"
    ),
    "imagenet:method.form": Released("released", "", "objective.py:62"),
    "cifar10:augment.crop_scale": Released(
        (0.2, 1.0), "scale=(0.2,1.)", "datasets/cifar.py:84"
    ),
    "cifar10:augment.jitter": Released(
        (0.4, 0.4, 0.4, 0.4), "ColorJitter(0.4, 0.4, 0.4, 0.4)", "datasets/cifar.py:85"
    ),
    "cifar10:augment.jitter_probability": Released(
        1.0, "ColorJitter without RandomApply", "datasets/cifar.py:85"
    ),
    "cifar10:augment.grayscale": Released(
        0.2, "RandomGrayscale(p=0.2)", "datasets/cifar.py:86"
    ),
    "cifar10:augment.blur": Released(
        0.0, "# RandomBlur(), commented out", "datasets/cifar.py:87"
    ),
    "cifar10:augment.flip": Released(
        0.0, "#RandomHorizontalFlip(), commented out", "datasets/cifar.py:88"
    ),
    "cifar10:augment.mean": Released(
        (0.4914, 0.4822, 0.4465), "Normalize, first", "datasets/cifar.py:90"
    ),
    "cifar10:augment.std": Released(
        (0.2023, 0.1994, 0.2010), "Normalize, second", "datasets/cifar.py:90"
    ),
    "cifar10:encoder.depth": Released(18, "--network resnet18_cifar", _COMMAND),
    "cifar10:encoder.stem": Released(
        "cifar", "3x3, stride 1, no pool", "models/resnet_cifar.py:77"
    ),
    "cifar10:encoder.hidden": Released(
        512, "Linear(..., 512)", "models/resnet_cifar.py:89"
    ),
    "cifar10:encoder.norm_group": Released(32, "as on ImageNet", "main.py:35,45,117"),
    "cifar10:method.form": Released("released", "", "objective.py:62"),
    "cifar10:method.num_hard": Released(20, "--n_pos 20", _COMMAND),
    "cifar10:method.temperature": Released(0.2, "--t 0.2", _COMMAND),
    "cifar10:optimizer.weight_decay": Released(5e-4, "--weight_decay 5e-4", _COMMAND),
    "cifar10:train.batch_size": Released(128, "--batch_size 128", "main.py:45"),
    "cifar10:train.epochs": Released(800, "--max_epoch 800", "main.py:36"),
    # No tags there: they take CIFAR-10's.
    "cifar100:augment.jitter": Released(
        (0.4, 0.4, 0.4, 0.4), "ColorJitter(0.4, 0.4, 0.4, 0.4)", "datasets/cifar.py:85"
    ),
    "svhn:augment.jitter": Released(
        (0.4, 0.4, 0.4, 0.4), "ColorJitter(0.4, 0.4, 0.4, 0.4)", "datasets/svhn.py:41"
    ),
    "svhn:augment.flip": Released(
        0.0, "#RandomHorizontalFlip(), commented out", "datasets/svhn.py:43"
    ),
    "svhn:augment.mean": Released(
        (0.4914, 0.4822, 0.4465), "Normalize, first: CIFAR's", "datasets/svhn.py:45"
    ),
    "svhn:augment.std": Released(
        (0.2023, 0.1994, 0.2010), "Normalize, second: CIFAR's", "datasets/svhn.py:45"
    ),
}

# open-mmlab/OpenSelfSup at commit 1db69ec.
_ODC = "configs/selfsup/odc/r50_v1.py"
_ODC_MEMORY = "openselfsup/models/memories/odc_memory.py"
_NECKS = "openselfsup/models/necks.py"
_KMEANS = "openselfsup/third_party/clustering.py"

CONFIGS |= {
    "default:odc:method.num_clusters": Released(
        10000, "num_classes = 10000", f"{_ODC}:3"
    ),
    "default:odc:method.bank_momentum": Released(
        0.5,
        "momentum=0.5, there the weight of the new row (odc_memory.py:111-112)",
        f"{_ODC}:29",
    ),
    "default:odc:method.min_cluster": Released(20, "min_cluster=20", f"{_ODC}:31"),
    "default:odc:method.refresh_every": Released(
        10, "centroids_update_interval=10", f"{_ODC}:95"
    ),
    "default:odc:method.weight_power": Released(0.5, "reweight_pow=0.5", f"{_ODC}:99"),
    "default:odc:method.kmeans_iterations": Released(
        20, "clus.niter = 20", f"{_KMEANS}:90"
    ),
    "default:odc:method.split_iterations": Released(
        20, "KMeans(n_clusters=2, ..., max_iter=20)", f"{_ODC_MEMORY}:34"
    ),
    "default:odc:method.dropout": Released(0.5, "nn.Dropout()", f"{_NECKS}:141"),
    "default:odc:method.norm_momentum": Released(
        0.999, "momentum=0.001, there the weight of the new value", f"{_NECKS}:137"
    ),
    "default:odc:encoder.hidden": Released(512, "hid_channels=512", f"{_ODC}:17"),
    "default:odc:encoder.dim": Released(256, "out_channels=256", f"{_ODC}:18"),
    "default:odc:optimizer.groups": Released(
        {"head": {"momentum": 0.0}},
        r"paramwise_options={'\Ahead.': dict(momentum=0.)}",
        f"{_ODC}:105",
    ),
    "imagenet:odc:augment.crop_scale": Released(
        (0.08, 1.0), "not given: torchvision's default", f"{_ODC}:43"
    ),
    "imagenet:odc:augment.rotation": Released(
        2.0, "RandomRotation, degrees=2", f"{_ODC}:45"
    ),
    "imagenet:odc:augment.flip": Released(0.5, "RandomHorizontalFlip", f"{_ODC}:44"),
    "imagenet:odc:augment.jitter": Released(
        (0.4, 0.4, 1.0, 0.5),
        "brightness=0.4, contrast=0.4, saturation=1.0, hue=0.5",
        f"{_ODC}:48-51",
    ),
    "imagenet:odc:augment.jitter_probability": Released(
        1.0, "ColorJitter without RandomAppliedTrans", f"{_ODC}:46-51"
    ),
    "imagenet:odc:augment.grayscale": Released(
        0.2, "RandomGrayscale, p=0.2", f"{_ODC}:52"
    ),
    "imagenet:odc:augment.blur": Released(0.0, "no blur is listed", f"{_ODC}:42-55"),
    "imagenet:odc:encoder.norm_group": Released(
        0, "the backbone's SyncBN sees the whole batch", f"{_ODC}:13"
    ),
    "imagenet:odc:optimizer.learning_rate": Released(0.06, "lr=0.06", f"{_ODC}:103"),
    "imagenet:odc:optimizer.momentum": Released(0.9, "momentum=0.9", f"{_ODC}:103"),
    "imagenet:odc:optimizer.weight_decay": Released(
        1e-5, "weight_decay=0.00001", f"{_ODC}:103"
    ),
    "imagenet:odc:optimizer.schedule": Released(
        "steps", "policy='step'", f"{_ODC}:107"
    ),
    "imagenet:odc:optimizer.milestones": Released(
        (400,), "step=[400], counted from 0", f"{_ODC}:107"
    ),
    "imagenet:odc:optimizer.decay": Released(0.4, "gamma=0.4", f"{_ODC}:107"),
    "imagenet:odc:train.batch_size": Released(
        512, "imgs_per_gpu=64,  # 64*8", f"{_ODC}:63"
    ),
    "imagenet:odc:train.epochs": Released(440, "total_epochs = 440", f"{_ODC}:110"),
}

_PROBE = "downstream/linear_classification/linear_classification.py"
_SMALL = "downstream/linear_classification/eval_linear.py"
_SEMI = "downstream/semi_supervised.py"
_TUNE = "downstream/fine_tune.py"
_LATE = "the rates of an epoch are set after it"

RECIPES = {
    "IMAGENET.linear.epochs": Released(120, "--max_epoch 120", f"{_PROBE}:107"),
    "IMAGENET.linear.batch_size": Released(256, "--batch_size 256", f"{_PROBE}:104"),
    "IMAGENET.linear.learning_rate": Released(1.0, "--lr 1.", f"{_PROBE}:103"),
    "IMAGENET.linear.milestones": Released(
        (50, 80, 100), "MultiStepLR, milestones=[50, 80, 100]", f"{_PROBE}:178"
    ),
    "IMAGENET.linear.decay": Released(0.1, "gamma=0.1", f"{_PROBE}:178"),
    "IMAGENET.linear.crop_scale": Released((0.08, 1.0), "(0.08, 1.)", f"{_PROBE}:135"),
    "IMAGENET.linear.flip": Released(0.5, "RandomHorizontalFlip()", f"{_PROBE}:136"),
    "IMAGENET.linear.scaled": Released(
        True,
        "BatchNorm1d (models/LinearModelMulti.py:28), never in training",
        f"{_PROBE}:232",
    ),
    "IMAGENET.linear.std": Released(
        0.01, "normal_(0, 0.01)", "models/LinearModelMulti.py:47"
    ),
    "IMAGENET.semi.epochs": Released(30, "--max_epoch 30", f"{_SEMI}:66"),
    "IMAGENET.semi.batch_size": Released(128, "--batch_size 128", f"{_SEMI}:63"),
    "IMAGENET.semi.learning_rate": Released(0.0012, "--lr 0.0012", f"{_SEMI}:62"),
    "IMAGENET.semi.head_rate": Released(0.06, "lr*50", f"{_SEMI}:128"),
    "IMAGENET.semi.milestones": Released(
        (16, 21, 26), f"--lr_decay_steps 15,20,25; {_LATE} (line 171)", f"{_SEMI}:67"
    ),
    "IMAGENET.semi.head_milestones": Released(
        (), "the rate of cls_optimizer is never changed", f"{_SEMI}:171"
    ),
    "IMAGENET.semi.decay": Released(0.1, "* 0.1, * 0.01, * 0.001", f"{_SEMI}:49-53"),
    "IMAGENET.semi.weight_decay": Released(1e-5, "--weight_decay 1e-5", f"{_SEMI}:65"),
    "IMAGENET.semi.crop_scale": Released(
        (0.08, 1.0), "minimum_crop = 0.08", "datasets/imagenet.py:98,101"
    ),
    "IMAGENET.semi.flip": Released(
        0.5, "RandomHorizontalFlip()", "datasets/imagenet.py:102"
    ),
    "IMAGENET.finetune.epochs": Released(81, "--max_epoch 81", f"{_TUNE}:272"),
    "IMAGENET.finetune.batch_size": Released(128, "--batch_size 128", f"{_TUNE}:281"),
    "IMAGENET.finetune.learning_rate": Released(0.001, "--lr 0.001", f"{_TUNE}:280"),
    "IMAGENET.finetune.head_rate": Released(0.05, "50 * lr", f"{_TUNE}:207"),
    "IMAGENET.finetune.milestones": Released(
        (51, 71),
        f"--lr_decay_steps 50,70,80; {_LATE} (line 98), and 80 is the last",
        f"{_TUNE}:273",
    ),
    "IMAGENET.finetune.head_milestones": Released(
        (1, 51, 71),
        f"5 * lr, of 50 * lr before, and the same steps; {_LATE}",
        f"{_TUNE}:97",
    ),
    "IMAGENET.finetune.decay": Released(
        0.1, "* 0.1, * 0.01, * 0.001; and 5 * lr for 50 * lr", f"{_TUNE}:52-57,97"
    ),
    "IMAGENET.finetune.weight_decay": Released(
        1e-6, "--weight_decay 1e-6", f"{_TUNE}:282"
    ),
    "IMAGENET.finetune.crop_scale": Released(
        (0.2, 1.0), "scale=(0.2,1.)", "datasets/stanford_cars.py:7"
    ),
    "IMAGENET.finetune.flip": Released(
        0.5, "RandomHorizontalFlip()", "datasets/stanford_cars.py:8"
    ),
    "SMALL.linear.epochs": Released(100, "--epochs 100", f"{_SMALL}:75"),
    "SMALL.linear.batch_size": Released(256, "--batch_size 256", f"{_SMALL}:73"),
    "SMALL.linear.milestones": Released(
        (40, 60, 80),
        "--lr_decay_epochs 40,60,80; 'epoch > milestone' (line 43), from 1 (line 304)",
        f"{_SMALL}:79",
    ),
    "SMALL.linear.decay": Released(0.2, "--lr_decay_rate 0.2", f"{_SMALL}:80"),
    "SMALL.linear.crop_scale": Released(
        (), "# RandomResizedCrop, commented out", "datasets/cifar.py:58"
    ),
    "SMALL.linear.flip": Released(
        0.5, "RandomHorizontalFlip()", "datasets/cifar.py:61"
    ),
    "SMALL.linear.scaled": Released(False, "Linear alone", "models/LinearModel.py:103"),
}


def pretraining_rate(epoch: int, *, rate: float, milestones: tuple[int, ...]) -> float:
    """main.py:148,168 and utils.py:212-214, for an epoch counted from 0."""
    counted = epoch + 1
    return rate * 0.1 ** sum(counted >= milestone for milestone in milestones)


def tuning_rates(
    epochs: int,
    *,
    first: float,
    later: float,
    milestones: tuple[int, ...],
) -> list[float]:
    """fine_tune.py:44-60,82-98 and semi_supervised.py:40-56,162-171, by epoch.

    `first` until the rate is set for the first time, after epoch 0; then `later`, which
    falls by the epoch that is just over.
    """
    rates, rate = [], first
    for epoch in range(epochs):
        rates.append(rate)
        rate = later * 0.1 ** sum(epoch >= milestone for milestone in milestones)
    return rates
