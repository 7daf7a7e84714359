"""What else users could run on a CPU, measured beside GGUF: `ggufkit eval --against NAME`.

A baseline is one way of one other system, such as bitsandbytes' NF4. It runs in a process of its own, by the Python of
an environment of its own (or by ours, where that has the right packages): its versions may clash with ours, and it may
die. So its code lies apart, in `runners/`, which is loaded there under the name `baseline_runners` without the rest of
ggufkit. Modules in `runners/` therefore

* import the standard library only, and each other relatively (`from .adapter import ...`); everything else (numpy,
  torch ...) inside functions;
* must not expect anything of ours to be installed there.

How an adapter looks: one file `runners/SYSTEM.py` with

    RECIPE = Recipe("system", requirements=("package==1.2.3", ...), imports=("package",), remove=("torchvision",))
    BASELINES = (Baseline("system-int8", "System, int8", RECIPE, module="system", variant="int8", load_bytes=5.0), ...)

    def load(job: Job) -> Model:        # in the child: `job.variant` says which of the baselines
    def prepare(job: Job) -> None:      # only with `prepares=True`: export and quantize into `job.work`, in an
                                        # earlier process, so that its memory is not counted as the model's

and its name in `catalogue._MODULES`. A model (`runners.adapter.Model`) has two methods: `logits` of a list of token
ids, and `generate`, greedily, one id after the other. All text is cut into ids, and ids are made text again, by
llama.cpp: an adapter needs no tokenizer, and all systems get exactly the same ids. What is in the way of a baseline on
this machine is raised as `CannotRunError("why")`; that, and any other exception, becomes the reason in the table.
`runners.causal.CausalModel` does both methods for whatever has the call of a transformers model.

Who does what: `catalogue.py` knows the names; `environments.py` makes environments; `processes.py` runs the child;
`vocabulary.py` makes ids of prompts, and texts of ids; `measure.py` goes through the baselines; `scoring.py` computes
figures from their logits with the very code that scores GGUF files; `results.py` holds what is found, `documents.py`
writes it; `elsewhere.py` reads results that were measured on other machines (docs/baseline-results.md).
"""
