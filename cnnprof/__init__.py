"""cnnprof: what a PyTorch network costs, in parameters, multiply-accumulates, time and memory, and how two compare.

A model is analyzed on shapes alone and measured against a clock; both make a profile, which is saved; profiles are
compared with a baseline; a comparison is reported. The rooms, in the order in which data passes through them:

    models        a name, a file or an import path to a network; the builders of the catalog
    analysis      what shapes alone tell: parameters, MACs, activations, memory over a step; what a block can combine
    measurement   what only a run can tell: times in sessions, memory, where the time goes
    comparison    ratios, verdicts, doubts
    reporting     tables, figures, Markdown, HTML
    footprint     the memory of a step: predicted, measured, the batch that fits
    matching      the argument that makes one model as large as another
    verification  a student's own builders against the course's numbers, and the rule that is probably broken
    training      data, the trainer, and the questions whether a network can learn at all
    checkup       those questions, put to a model
    learning      models that learn side by side
    profiling     the sentence that calls them all
    gating        models against a saved run or a revision, in two processes that take turns
    rounds        a model in the rounds of pytest-benchmark, where pytest_plugin brings it in
    cli           arguments, screen, exit codes

Below them lie records (the nouns), steps (the calls that are measured and predicted), units, statistics, store (JSON),
machine, inputs, module_tree, gradients, recursion, optimizers, origin, revisions and remote (another process),
configuration, calls and errors. Public names load when they are first used, so that `cnnprof --help` need not wait for
torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
