"""The words of metrics: which names make a curve, which are steps, and which only look like metrics."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache


class Kind(Enum):
    """What a name in front of a number means."""

    METRIC = "a measure of quality, a curve wherever it stands"
    WEAK = "a word that also has other meanings: a curve when it is written as a decimal or stands beside a step"
    COMPANION = "a curve beside others, a setting when alone"
    UNKNOWN = "a curve only in a line that certainly holds one"
    NEVER = "not a curve"
    STEP = "counts steps"
    BATCH = "counts within an epoch"
    EPOCH = "counts epochs"


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_METRIC = _vocabulary(
    "loss losses nll elbo acc accuracy auc auroc roc_auc f1 bleu sacrebleu rouge rouge1 rouge2 rougel meteor chrf wer cer "
    "ppl perplexity mae mse rmse mape r2 iou miou dice psnr ssim fid lpips mcc ndcg mrr logloss bpb bpc bpd entropy "
    "reward rewards rew kld crossentropy xent"
)
_WEAK = _vocabulary("score map ap precision recall error err return returns reg regularization kl margin margins hit")
_COMPANION = _vocabulary("lr learning_rate learningrate norm gnorm gradnorm mfu tps throughput scale")
_NEVER = _vocabulary(
    "time times eta elapsed remaining date duration runtime second seconds sec secs ms minutes min hour hours memory mem "
    "gpu gpus cpu cpus ram cuda vram size seed pid port rank world workers worker version v_num epochs steps iterations "
    "iters params parameters parameter count counts file files progress speed device devices id index num number length "
    "len dim layers heads patience flos flops dt checkpoint checkpoints sample samples image images row rows line lines "
    "weight weights decay coef coefficient factor threshold alpha beta betas gamma eps epsilon dropout warmup it/s s/it "
    "examples instances batches tokens max_length frequency interval every best_epoch smoothing code status exit run "
    "wps ups wpb bsz wall gb_free"
)
_STEPS = _vocabulary(
    "step global_step globalstep train_step training_step iter iters_done iteration itr it update num_updates timestep "
    "timesteps total_timesteps num_timesteps episode round train_iter current_step current_steps global_steps"
)
_BATCHES = _vocabulary("batch minibatch batch_idx")
_EPOCHS = _vocabulary("epoch ep train_epoch epoch_num")
_SPEEDS = _vocabulary(
    "tokens/s tok/s tokens_per_second tokens_per_sec tokens/sec tok/sec tokens_per_second_per_gpu grad_norm"
)
_JOINED = ("loss", "accuracy", "acc", "reward", "perplexity", "iou", "rmse")
_DIGITS = "0123456789"
_CUT = re.compile(r"[\s_\-./@:]+")

HELD_OUT = {
    "val": "val", "valid": "val", "validation": "val", "validating": "val", "dev": "val", "test": "test",
    "testing": "test", "eval": "eval", "evaluation": "eval", "evaluating": "eval",
}  # fmt: skip
# A summary of the Trainer of transformers says so of the whole training: it is not the loss where that ended.
IN_SUMMARY = {"train_loss": "mean_train_loss"}
TRAINING = frozenset(("train", "training"))
QUALIFIERS = (
    TRAINING
    | HELD_OUT.keys()
    | _vocabulary(
        "avg average mean running total lm best final last top learning grad gradient mlm policy value actor critic d g "
        "discriminator generator episode smoothed moving weighted macro micro epoch step batch word mean sum cls box dfl "
        "reconstruction recon kl contrastive mel duration token sequence exact pixel balanced cross validation loss"
    )
)


@lru_cache(maxsize=4096)
def kind_of(name: str) -> Kind:
    """What a name means. Its last word decides, then what is in front of it: `loss_weight` is none, `data_loss` is one."""
    lower = name.strip().lower()
    joined = _CUT.sub("_", lower).strip("_")
    for words, kind in ((_EPOCHS, Kind.EPOCH), (_STEPS, Kind.STEP), (_BATCHES, Kind.BATCH), (_SPEEDS, Kind.COMPANION)):
        if joined in words or lower in words:
            return kind
    if joined in ("data", "total", "v_num") or joined.endswith(("per_second", "per_sec", "_per_s")):
        return Kind.COMPANION if "tok" in joined else Kind.NEVER
    if joined.endswith("learning_rate"):
        return Kind.COMPANION
    return _kind_by_words([word for word in _CUT.split(lower) if word and not word.isdigit()])


def _kind_by_words(words: list[str]) -> Kind:
    if not words:
        return Kind.NEVER
    if _is_one(words[-1], _METRIC) or words[-1].rstrip(_DIGITS).endswith(_JOINED):
        return Kind.METRIC
    if any(_is_one(word, _NEVER) for word in words):
        return Kind.NEVER
    for tried in (words[-1:], words):
        for vocabulary, kind in ((_METRIC, Kind.METRIC), (_WEAK, Kind.WEAK), (_COMPANION, Kind.COMPANION)):
            if any(_is_one(word, vocabulary) for word in tried):
                return kind
    return Kind.UNKNOWN


def _is_one(word: str, vocabulary: frozenset[str]) -> bool:
    return word in vocabulary or word.rstrip(_DIGITS) in vocabulary
