"""Words of peft, TRL, transformers, axolotl and LLaMA-Factory -> what a job says instead. One table, for messages only."""

_QLORA = "QLoRA is not supported: the base model is kept in bf16 or fp32 (training.precision); leave the field out"
_NO_METHOD = "the only method is supervised fine-tuning with LoRA; leave the field out"
_OPTIMIZER = "the optimizer is AdamW; see training.learningRate, training.weightDecay and training.maxGradNorm"
_BATCH = (
    "training.globalBatchSize counts the rows of one optimizer step over all pods: "
    "per_device_train_batch_size x gradient_accumulation_steps x number of processes"
)
_PRECISION = "use training.precision: bf16 or fp32"
_LENGTH = "use training.maxSequenceLength"
_EVAL_BATCH = "evaluation has no batch size of its own; leave the field out"
_ROWS = "use dataset.uri; its rows are JSON Lines"
_SAVES = "commits are made automatically; see checkpoint.minIntervalSeconds and checkpoint.keep"
_VARIANT = "this variant of LoRA is not supported; leave the field out"
_ADAPTER_FORM = "the adapter's form is fixed: LoRA without bias on linear layers; leave the field out"
_MODEL = "use model.uri, such as hf://OWNER/NAME"
_SHARDING = "sharding is chosen by the trainer; see training.shardAcross"
_LOGGING = "every step is logged; see tracking.reportTo"
_QUEUE = "Kueue queues are not supported; jobs wait in the operator's own queue, by priority and age"

# Keys without underscores and hyphens, in lower case.
_BY_SENTENCE: dict[str, tuple[str, ...]] = {
    _QLORA: ("qlora", "quantization", "quantize", "quantized", "loadin4bit", "loadin8bit", "bits", "bnb4bitquanttype", "quantizationbit"),
    _NO_METHOD: ("method", "dpo", "orpo", "kto", "grpo", "rlhf", "stage", "finetuningtype", "rl"),
    "DoRA is not supported (vLLM does not serve it either); leave the field out": ("dora", "usedora", "peftusedora"),
    _VARIANT: ("userslora", "initloraweights", "loftqconfig", "loraplus", "loraplusratio", "rankpattern", "alphapattern", "usegalore"),
    _ADAPTER_FORM: ("bias", "lorabias", "modulestosave", "loramodulestosave", "tasktype", "fanfaninfanout", "layerstotransform"),
    _QUEUE: ("queue", "queuename", "localqueue"),
    "use adapter.rank": ("r", "lorar", "lorarank", "lorarankr"),
    "use adapter.alpha": ("loraalpha",),
    "use adapter.dropout": ("loradropout",),
    "use adapter.targetModules": ("loratarget", "loratargetmodules", "loratargetlinear", "targetmodule", "loratargets"),
    _LENGTH: ("maxseqlength", "maxseqlen", "maxlength", "sequencelen", "sequencelength", "cutofflen", "modelmaxlength", "blocksize"),
    _PRECISION: ("bf16", "fp16", "tf32", "dtype", "torchdtype", "mixedprecision", "float16", "bfloat16"),
    _BATCH: (
        *("gradientaccumulationsteps", "perdevicetrainbatchsize", "microbatchsize", "batchsize", "trainbatchsize"),
        *("perdevicebatchsize", "microbatchsizeperdevice", "globalbatch"),
    ),
    _EVAL_BATCH: ("perdeviceevalbatchsize", "evalbatchsize"),
    _OPTIMIZER: ("optim", "optimizer", "optimizers", "optimargs", "adambeta1", "adambeta2", "adamepsilon"),
    "use training.epochs, a whole number": ("numtrainepochs", "numepochs", "epoch"),
    "use training.maxSteps": ("maxtrainsteps", "steps", "numsteps", "totalsteps"),
    "use training.learningRate": ("lr",),
    "use training.schedule: cosine, linear or constant": ("lrscheduler", "lrschedulertype", "scheduler", "lrschedulerkwargs"),
    "use training.warmupRatio, a share of the steps": ("warmupsteps", "warmup", "numwarmupsteps"),
    "use training.maxGradNorm": ("gradientclipping", "gradclip", "maxnorm", "clipgradnorm"),
    "use training.packing": ("samplepacking", "neatpacking", "evalsamplepacking", "padtosequencelen", "groupbylength"),
    "use training.evalEverySteps": ("evalsteps", "evalstrategy", "evaluationstrategy", "evalspereepoch", "evalsperepoch"),
    "use training.trainOn: completions or all": (
        "trainoninputs",
        "assistantonlyloss",
        "completiononlyloss",
        "trainonprompt",
        "maskhistory",
    ),
    "use training.chatTemplate, with the Jinja text itself": ("template", "chattemplatejinja", "chattemplatepath"),
    "use training.gradientCheckpointing": ("activationcheckpointing", "usegradientcheckpointing", "gradientcheckpointingkwargs"),
    "use training.seed": ("randomseed", "dataseed", "randomstate"),
    "the attention kernel is chosen by the trainer; leave the field out": (
        *("flashattn", "flashattention", "attnimplementation", "flashattn2", "sdpattention"),
        *("useligerkernel", "ligerkernel", "enableligerkernel"),
    ),
    _MODEL: ("modelnameorpath", "basemodel", "modelname", "modelid", "pretrainedmodel", "modelpath"),
    _ROWS: ("datasetname", "datasets", "trainfile", "datasetpath", "traindata", "datafiles", "datasettextfield", "datapath"),
    "use dataset.evalUri or dataset.evalFraction": ("valsetsize", "valsize", "validationsplit", "evaldataset", "evalfile", "testdatasets"),
    "use resources.limits, such as {nvidia.com/gpu: 8}": ("gpus", "gpu", "gpucount", "gpusperpod", "accelerators"),
    "use placement.nodeSelector and placement.tolerations": ("nodeselector", "tolerations", "affinity", "nodeaffinity"),
    "put HF_TOKEN into the Secret that storage.secretName names": ("token", "hftoken", "usetoken", "useauthtoken", "hubtoken"),
    "dataset.uri names files: hf://OWNER/NAME/FILE, /FOLDER or /PATTERN": ("split", "subset", "configname", "datasetconfig"),
    "use output.uri": ("outputdir", "hubmodelid", "pushtohub"),
    _SAVES: ("savesteps", "savestrategy", "savetotallimit", "savesperepoch", "saveonlymodel", "resumefromcheckpoint"),
    _SHARDING: ("fsdp", "fsdpconfig", "deepspeed", "ddpbackend", "tensorparallelsize", "numgpus", "zerostage"),
    _LOGGING: ("loggingsteps", "loggingdir", "loggingstrategy", "wandbproject", "wandbentity", "runname", "usewandb"),
    "use resources.nodes and resources.processesPerNode": (
        "replicas",
        "numnodes",
        "numprocpernode",
        "nprocpernode",
        "worldsize",
        "numworkers",
    ),
}
_SENTENCES = {word: sentence for sentence, words in _BY_SENTENCE.items() for word in words}


def counterpart_of(name: str) -> str | None:
    """What to write instead of a field that other tools have."""
    return _SENTENCES.get(name.replace("_", "").replace("-", "").lower())
