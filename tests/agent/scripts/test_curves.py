"""Curves out of what well-known training scripts print, and nothing out of what is no curve."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.scripts.curves import MAX_STEP, RULES, Counting, Curves, Point

PRINTED = Path(__file__).parent / "printed"
Form = tuple[str, str, int, dict[str, float | None], int | None]

# A line as it is printed, the rule it belongs to, the step it is at when it is the first one, its values, its total.
FORMS: list[Form] = [
    # nanoGPT, and what was made after it
    ("iter 10: loss 2.31, time 5ms, mfu 3%", "iterations", 10, {"loss": 2.31, "mfu": 3}, None),
    ("iter 20: loss nan, time 5.20ms, mfu -100.00%", "iterations", 20, {"loss": None, "mfu": -100}, None),
    ("step 250: train loss 2.1, val loss 2.3", "iterations", 250, {"train_loss": 2.1, "val_loss": 2.3}, None),
    (
        "step   30/74 | loss 11.009463 (+nanz)| norm 15.8 (+nanz)| lr 8.57e-07 | 3027.07 ms | 46.7% bf16 MFU | 173218 tok/s",
        "iterations", 30, {"loss": 11.009463, "norm": 15.8, "lr": 8.57e-07}, 74,
    ),
    (
        "step:260/1750 train_loss:3.2821 val_loss:3.2789 train_time:1000ms step_avg:100.01ms",
        "iterations", 260, {"train_loss": 3.2821, "val_loss": 3.2789}, 1750,
    ),
    ("step 0 loss 0.89, accuracy 50.0%", "iterations", 0, {"loss": 0.89, "accuracy": 50}, None),
    ("iter 100, loss: 80.123", "iterations", 100, {"loss": 80.123}, None),
    ("  3000/ 200000: 2.1453", "", 0, {}, None),  # makemore: a number without a name is no curve
    ("step 500 | loss 3.2951 | step time 20.11ms", "iterations", 500, {"loss": 3.2951}, None),
    # PyTorch's examples and tutorials
    ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.300", "epochs", 640, {"loss": 2.3}, None),
    (
        "Test set: Average loss: 0.0500, Accuracy: 9833/10000 (98%)",
        "pairs", 0, {"test_average_loss": 0.05, "test_accuracy": 0.9833}, None,
    ),
    ("[1,  2000] loss: 2.173", "epochs", 2000, {"loss": 2.173}, None),
    ("loss: 2.303494  [   64/60000]", "epochs", 64, {"loss": 2.303494}, 60000),
    (" Accuracy: 45.5%, Avg loss: 2.158", "pairs", 0, {"accuracy": 45.5, "avg_loss": 2.158}, None),
    ("train Loss: 0.5922 Acc: 0.6844", "pairs", 0, {"train_loss": 0.5922, "train_acc": 0.6844}, None),
    ("val Loss: 0.2222 Acc: 0.9216", "pairs", 0, {"val_loss": 0.2222, "val_acc": 0.9216}, None),
    (
        "Epoch: [0][  10/5005]\tTime  0.512 ( 1.212)\tData  0.001 (0.1)\tLoss 6.9123e+00 (6.9512e+00)\tAcc@1   0.39 (  0.1)",
        "epochs", 10, {"loss": 6.9123, "acc@1": 0.39}, None,
    ),
    (" * Acc@1 86.000 Acc@5 98.0", "pairs", 0, {"val_acc@1": 86, "val_acc@5": 98}, None),
    (
        "* Acc@1 81.4 Acc@5 95.3 loss 0.85",  # DeiT
        "pairs", 0, {"val_acc@1": 81.4, "val_acc@5": 95.3, "val_loss": 0.85}, None,
    ),
    (" * loss: 0.5", "pairs", 0, {"loss": 0.5}, None),  # an item of a list
    (
        "[0/25][1/1583]\tLoss_D: 1.2\tLoss_G: 3.4\tD(x): 0.5\tD(G(z)): 0.4 / 0.2",  # DCGAN
        "epochs", 1, {"loss_d": 1.2, "loss_g": 3.4, "x": 0.5}, 39575,
    ),
    ("INFO:root:[ 3/25] [ 100/1583] loss: 0.5", "epochs", 3266, {"loss": 0.5}, 39575),
    ("[1/4][10/100][7] Loss_D: 1.2", "epochs", 10, {"loss_d": 1.2}, 400),  # WGAN: and the updates of the generator
    ("Epoch 2 [1/4][10/100] loss: 0.5", "epochs", 5, {"loss": 0.5}, None),
    (
        "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 13.21 | loss  7.63 | ppl  2053.20",
        "epochs", 200, {"lr": 20, "loss": 7.63, "ppl": 2053.2}, None,
    ),
    (
        "| end of epoch   1 | time: 44.27s | valid loss  5.63 | valid ppl   279.20",
        "epochs", 1, {"valid_loss": 5.63, "valid_ppl": 279.2}, None,
    ),
    (
        "Episode 10\tLast reward: 50.00\tAverage reward: 12.31",
        "iterations", 10, {"last_reward": 50, "average_reward": 12.31}, None,
    ),
    ("Epoch [1/5], Step [100/600], Loss: 0.1234", "epochs", 100, {"loss": 0.1234}, 3000),
    ("loss: tensor(0.5123, grad_fn=<NllLossBackward0>)", "pairs", 0, {"loss": 0.5123}, None),
    # epochs in prose
    ("Epoch 3/10 loss=0.42 acc=0.91", "epochs", 3, {"loss": 0.42, "acc": 0.91}, 10),
    ("epoch 3 ... acc=0.91", "epochs", 3, {"acc": 0.91}, None),
    (
        "Epoch: 010, Loss: 1.5, Train: 0.6, Val: 0.5, Test: 0.6",
        "epochs", 10, {"loss": 1.5, "train": 0.6, "val": 0.5, "test": 0.6}, None,
    ),
    ("\tTrain Loss: 0.512 | Train Acc: 75.21%", "pairs", 0, {"train_loss": 0.512, "train_acc": 75.21}, None),
    ("\t Val. Loss: 0.4 |  Val. Acc: 80.1%", "pairs", 0, {"val_loss": 0.4, "val_acc": 80.1}, None),
    # larger frameworks
    (
        "Train: 0 [  50/1251 (  4%)]  Loss: 6.954 (6.95)  Time: 1.211s,  200.1/s  (1.2s, 200/s)  LR: 1.000e-05  Data: 0.011 (0.9)",
        "epochs", 50, {"loss": 6.954, "lr": 1e-05}, None,
    ),
    (
        "Epoch: [0]  [  20/1251]  eta: 0:10:00  lr: 0.000100  loss: 6.9123 (6.9511)  time: 0.5121  data: 0.0112  max mem: 5000",
        "epochs", 20, {"lr": 0.0001, "loss": 6.9123}, None,
    ),
    (
        "[12/10 12:30:05 d2.utils.events]:  eta: 0:05:00  iter: 319  total_loss: 2.5  loss_cls: 0.5  time: 0.5  lr: 0.0001  max_mem: 3000M",
        "iterations", 319, {"total_loss": 2.5, "loss_cls": 0.5, "lr": 0.0001}, None,
    ),
    (
        "2026-01-02 12:00:00,123 - mmdet - INFO - Epoch [1][350/7330]\tlr: 9.890e-04, eta: 1 day, 0:00:00, time: 0.5, "
        "data_time: 0.05, memory: 3000, loss_rpn_cls: 0.5, acc: 95.2, loss: 2.3",
        "epochs", 350, {"lr": 9.89e-04, "loss_rpn_cls": 0.5, "acc": 95.2, "loss": 2.3}, None,
    ),
    (
        "Epoch(train)  [1][ 50/7330]  lr: 9.8000e-04  eta: 1 day, 1:00:00  time: 0.5  data_time: 0.1  memory: 3000  loss: 2.3",
        "epochs", 50, {"lr": 9.8e-04, "loss": 2.3}, None,
    ),
    (
        " iteration       10/  500000 | consumed samples: 640 | elapsed time per iteration (ms): 500.1 | learning rate: 1.0E-04 "
        "| lm loss: 9.5E+00 | loss scale: 1.0 | grad norm: 2.3 | number of skipped iterations: 0 |",
        "iterations", 10, {"learning_rate": 1e-4, "lm_loss": 9.5, "loss_scale": 1, "grad_norm": 2.3}, 500000,
    ),
    (
        "step: 10  loss: 7.5  grad_norm: 2.1  memory: 3.2GiB(4%)  tps: 1,234  mfu: 3.9%",
        "iterations", 10, {"loss": 7.5, "grad_norm": 2.1, "tps": 1234, "mfu": 3.9}, None,
    ),
    (
        "epoch 001:  500 / 1000 loss=5.2, nll_loss=4.1, ppl=17.2, wps=1000, ups=3.1, wpb=3000, lr=0.0005",
        "epochs", 500, {"loss": 5.2, "nll_loss": 4.1, "ppl": 17.2, "lr": 0.0005}, None,
    ),
    # behind what a logging library puts in front, the line of the code among it
    (
        "2024-01-01 10:00:00 | INFO     | yolox.core.trainer:255 - epoch: 1/300, iter: 10/1000, mem: 4567Mb, iter_time: 0.312s, "
        "data_time: 0.005s, total_loss: 12.3, iou_loss: 3.2, l1_loss: 0.0, lr: 1.0e-05, size: 640, ETA: 10:00:00",
        "epochs", 10, {"total_loss": 12.3, "iou_loss": 3.2, "l1_loss": 0, "lr": 1e-05}, 300_000,
    ),
    ("2024-01-01 10:00:00.123 | INFO     | __main__:train_loss:12 - val loss: 0.5", "pairs", 0, {"val_loss": 0.5}, None),
    ("2024-01-01 10:00:00.123 | SUCCESS  | test.fit:step:12 - loss: 0.5", "pairs", 0, {"loss": 0.5}, None),
    ("2024-01-01 10:00:00.123 | INFO     | __main__:<module>:12 - step 10 loss 0.5", "iterations", 10, {"loss": 0.5}, None),
    ("2024-01-01 10:00:00.123 | INFO     | a:b:12 - step:10 loss:2", "iterations", 10, {"loss": 2}, None),
    ("[INFO|trainer.py:1234] 2024-01-01 10:00:00,123 >> epoch 1 loss 0.5", "epochs", 1, {"loss": 0.5}, None),
    ("I0101 10:00:00.123456 1234 val.py:255] step 10 loss: 0.5", "iterations", 10, {"loss": 0.5}, None),
    ("INFO:root:epoch:3 loss:2", "epochs", 3, {"loss": 2}, None),
    # trees and scikit-learn
    (
        "[10]\tvalidation_0-logloss:0.5123\ttrain-rmse:0.3",
        "iterations", 10, {"validation_0-logloss": 0.5123, "train-rmse": 0.3}, None,
    ),
    (
        "10:\tlearn: 0.6123\ttest: 0.65\tbest: 0.65 (0)\ttotal: 10ms\tremaining: 1s",
        "iterations", 10, {"learn": 0.6123, "test": 0.65, "best": 0.65}, None,  # CatBoost
    ),
    ("[10]\tvalid_0's binary_logloss: 0.61", "iterations", 10, {"binary_logloss": 0.61}, None),
    (
        "[10]\ttraining's binary_logloss: 0.6\tvalid_0's binary_logloss: 0.65",  # LightGBM, of two sets and more
        "iterations", 10, {"train_binary_logloss": 0.6, "val_binary_logloss": 0.65}, None,
    ),
    (
        "[10]\ttraining's auc: 0.9\ttraining's l2: 0.1\tvalid_1's auc: 0.8\tvalid_1's l2: 0.2",
        "iterations", 10, {"train_auc": 0.9, "train_l2": 0.1, "val_auc": 0.8, "val_l2": 0.2}, None,
    ),
    (
        "[10]\ttrain's l2: 0.1\tvalid_0's l2: 0.2\tvalid_1's l2: 0.3\tholdout's l2: 0.4",
        "iterations", 10, {"train_l2": 0.1, "valid_0_l2": 0.2, "valid_1_l2": 0.3, "holdout_l2": 0.4}, None,
    ),
    ("[10]\tvalid_0's auc: 0.8\tvalid_0's l2: 0.2", "iterations", 10, {"auc": 0.8, "l2": 0.2}, None),
    (
        "[10]\tcv_agg's train l2: 0.1 + 0.01\tcv_agg's valid l2: 0.2 + 0.02",
        "iterations", 10, {"train_l2": 0.1, "valid_l2": 0.2}, None,
    ),
    ("Iteration 1, loss = 2.31234", "iterations", 1, {"loss": 2.31234}, None),
    # dictionaries
    (
        "{'loss': 2.3, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.5}",
        "trainer", 0, {"loss": 2.3, "grad_norm": 1.2, "learning_rate": 5e-05}, None,
    ),
    (
        "{'loss': '2.3', 'grad_norm': 'nan', 'learning_rate': '5e-05', 'epoch': '0.5'}",
        "trainer", 0, {"loss": 2.3, "grad_norm": None, "learning_rate": 5e-05}, None,
    ),
    (
        "{'eval_loss': 2.1, 'eval_runtime': 1.2, 'eval_samples_per_second': 100.1, 'eval_steps_per_second': 12.2, 'epoch': 1.0}",
        "trainer", 0, {"eval_loss": 2.1}, None,
    ),
    (
        "{'train_runtime': '100.1', 'train_samples_per_second': '12.3', 'train_loss': '1.9', 'epoch': '5'}",
        "trainer", 0, {"mean_train_loss": 1.9}, None,
    ),
    ("{'loss': 2.3, 'train_loss': 2.2, 'epoch': 0.5}", "trainer", 0, {"loss": 2.3, "train_loss": 2.2}, None),
    ('{"step": 5, "loss": 1.2}', "trainer", 5, {"loss": 1.2}, None),
    ('INFO {"step": 5, "train": {"loss": NaN, "lr": 0.1}}', "trainer", 5, {"train/loss": None, "train/lr": 0.1}, None),
    ("epoch 0: {'accuracy': np.float64(0.8), 'f1': 0.87}", "trainer", 0, {"accuracy": 0.8, "f1": 0.87}, None),
    ("{'loss': nan, 'epoch': 6.0}", "trainer", 0, {"loss": None}, None),
    (
        "{'loss': 0.25, 'grad_norm': nan, 'learning_rate': 5e-05, 'epoch': 0.5}",
        "trainer", 0, {"loss": 0.25, "grad_norm": None, "learning_rate": 5e-05}, None,
    ),
    # bars
    (" 10%|█         | 50/500 [00:10<01:30,  5.00it/s, loss=0.5, acc=0.25]", "bars", 50, {"loss": 0.5, "acc": 0.25}, 500),
    ("loss: 0.1234:  10%|█         | 100/1000 [00:10<00:20, 5.00it/s]", "bars", 100, {"loss": 0.1234}, 1000),
    ("Epochs:  30%|███       | 3/10 [00:10<00:20,  3.00s/it, loss=0.5]", "bars", 3, {"loss": 0.5}, 10),
    ("Epochs:  30%|███       | 3/10 [00:10<00:20,  3.00s/it]", "bars", 3, {}, 10),
    ("50it [00:10, 5.00it/s, loss=0.5]", "bars", 50, {"loss": 0.5}, None),
    ("Training:   2%|▏         | 10/500 [00:10<01:30,  5.00it/s]", "bars", 10, {}, 500),
    (
        "Epoch 0:  10%|█         | 50/500 [00:10<00:20, 5.00it/s, v_num=1, train_loss=0.500]",
        "epochs", 50, {"train_loss": 0.5}, None,
    ),
    (" 50/100 [====>....] - 5s 3ms/step - loss: 0.5 - accuracy: 0.9", "epochs", 50, {"loss": 0.5, "accuracy": 0.9}, 100),
    (
        "\x1b[1m50/100\x1b[0m \x1b[32m━━━━━━━━━━\x1b[0m\x1b[37m━━━━━\x1b[0m \x1b[1m1s\x1b[0m 30ms/step - accuracy: 0.9 - loss: 0.4",
        "epochs", 50, {"accuracy": 0.9, "loss": 0.4}, 100,
    ),
    ("100/100 - 5s - 50ms/step - loss: 0.3", "epochs", 100, {"loss": 0.3}, 100),
    # pairs
    ("step=100 loss=0.5", "iterations", 100, {"loss": 0.5}, None),
    ("loss: 0.5 | lr: 1e-3", "pairs", 0, {"loss": 0.5, "lr": 0.001}, None),
    ("INFO:root:average loss: 0.25", "pairs", 0, {"average_loss": 0.25}, None),
    ("Perplexity: 1,234.5", "pairs", 0, {"perplexity": 1234.5}, None),
    ("tokens/s: 900.5, loss: 3.0", "pairs", 0, {"tokens/s": 900.5, "loss": 3}, None),
    ("loss=-0.5 reg=1e-4", "pairs", 0, {"loss": -0.5, "reg": 1e-4}, None),
    # a comma in front of the decimals
    ("loss: 0,5", "pairs", 0, {"loss": 0.5}, None),
    ("step 10: loss 0,512, acc: 97,5%", "iterations", 10, {"loss": 0.512, "acc": 97.5}, None),
    ("Epoch 3/10 - loss: 0,4210 - lr: 1,5e-4", "epochs", 3, {"loss": 0.421, "lr": 1.5e-4}, 10),
    (" 10%|█   | 50/500 [00:10<01:30, 5,00it/s, loss=0,5, acc=0,25]", "bars", 50, {"loss": 0.5, "acc": 0.25}, 500),
    ("{'loss': '0,5', 'lr': 1,5e-4}", "trainer", 0, {"loss": 0.5, "lr": 1.5e-4}, None),
    ("step 1,500 loss: 2,5", "iterations", 1500, {"loss": 2.5}, None),
    ("[1,2000] loss: 2,17", "epochs", 2000, {"loss": 2.17}, None),
    ("losses: [1,2]", "pairs", 0, {"losses": 1}, None),
    # counts that tqdm writes short
    ("50%|█████     | 5.00k/10.0k [00:10<00:10, 500it/s, loss=0.5]", "bars", 5000, {"loss": 0.5}, 10_000),
    (" 10%|█         | 100/1.00k [00:10<00:10, 50.0it/s, loss=0.5]", "bars", 100, {"loss": 0.5}, 1000),
    ("  0%|          | 1.20M/1.00G [00:10<?, ?it/s, loss=0.5]", "bars", 1_200_000, {"loss": 0.5}, 10**9),
    ("5.00kit [00:10, 500it/s, loss=0.5]", "bars", 5000, {"loss": 0.5}, None),
    # where the step stands between the name and the number
    ("Training loss (for 1 batch) at step 100: 0.5", "iterations", 100, {"training_loss": 0.5}, None),
    ("Training loss (for one batch) at step 100: 0.5", "iterations", 100, {"training_loss": 0.5}, None),
    ("INFO:root:Loss at step 010: 68.7", "iterations", 10, {"loss": 68.7}, None),
    ("Validation accuracy at epoch 3/10: 0.75", "epochs", 3, {"validation_accuracy": 0.75}, 10),
]  # fmt: skip


def points_of(text: str | bytes, off: tuple[str, ...] = ()) -> list[Point]:
    curves = Curves(off)
    return [*curves.feed(text.encode() if isinstance(text, str) else text), *curves.close()]


def printed(name: str) -> list[Point]:
    """The points with values in the output of a script."""
    return [point for point in points_of((PRINTED / f"{name}.txt").read_bytes()) if point.values]


def steps(points: list[Point], name: str) -> list[tuple[int, float | None]]:
    return [(point.step, point.values[name]) for point in points if name in point.values]


@pytest.mark.parametrize(("line", "rule", "step", "values", "total"), FORMS, ids=[form[0][:40] for form in FORMS])
def test_a_printed_line_gives_its_point(
    line: str, rule: str, step: int, values: dict[str, float | None], total: int | None
) -> None:
    assert points_of(line + "\n") == ([Point(rule, step, values, total)] if rule else [])


@pytest.mark.parametrize("line", (PRINTED / "ordinary_log.txt").read_text().splitlines())
def test_an_ordinary_line_gives_no_curve(line: str) -> None:
    assert points_of(line) == []


def test_a_whole_ordinary_log_gives_no_curve() -> None:
    assert printed("ordinary_log") == []


def test_batches_of_epochs_are_laid_end_to_end_and_the_test_belongs_to_the_newest_one() -> None:
    points = printed("pytorch_mnist")
    assert [step for step, _ in steps(points, "loss")] == [0, 640, 60_640]
    assert steps(points, "test_accuracy") == [(640, 0.9833)]


VALIDATIONS = [
    (  # PyTorch's imagenet example
        "Epoch: [0][  11/5005]\tTime  0.5 ( 0.6)\tData  0.1 ( 0.1)\tLoss 6.9e+00 (6.95e+00)\tAcc@1   0.00 (  0.10)\n",
        "Test: [{:3}/196]\tTime  2.0 ( 2.0)\tLoss 1.0e+00 (1.0e+00)\tAcc@1  75.00 ( 75.00)\tAcc@5  90.0 ( 90.0)\n",
        {"val_loss": 1, "val_acc@1": 75, "val_acc@5": 90},
    ),
    (  # torchvision's references
        "Epoch: [0]  [  11/5005]  eta: 0:10:00  lr: 0.1  loss: 6.9123 (6.9511)  acc1: 0.00 (0.10)  time: 0.5121  data: 0.0112\n",
        "Test:   [{:3}/196]  eta: 0:00:10  loss: 0.9123 (0.9511)  acc1: 75.0000 (74.0)  time: 0.5121  data: 0.0112\n",
        {"val_loss": 0.9123, "val_acc1": 75},
    ),
    (  # timm
        "Train: 0 [  11/5005 (  0%)]  Loss: 6.954 (6.95)  Time: 1.211s,  200.1/s  (1.2s, 200/s)  LR: 1.000e-05\n",
        "Test: [{:4}/196]  Time: 0.500 (0.500)  Loss:   0.900 ( 0.900)  Acc@1:  75.391 ( 75.391)  Acc@5:  90.0 ( 90.0)\n",
        {"val_loss": 0.9, "val_acc@1": 75.391, "val_acc@5": 90},
    ),
    *(
        ("Epoch: [0][  11/5005]\tLoss 6.9\n", f"{word}: [{{}}/196] Loss: 0.3, Acc: 75.0\n", {"val_loss": 0.3, "val_acc": 75})
        for word in ("Val", "Eval", "Validation", "INFO:root:valid")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("training", "validation", "values"), VALIDATIONS, ids=[form[1][:18] for form in VALIDATIONS])
def test_the_batches_of_a_validation_belong_to_it_and_to_the_step_where_the_training_stands(
    training: str, validation: str, values: dict[str, float | None]
) -> None:
    batches = "".join(validation.format(batch) for batch in (0, 100, 195))
    summary, later = " * Acc@1 69.7 Acc@5 89.0\n", training.replace("  11/5005", "5001/5005")
    first, *of_validation, mean, last = points_of(training + batches + summary + later)
    assert [(point.step, point.values) for point in of_validation] == [(11, values)] * 3
    assert (mean.step, mean.values) == (11, {"val_acc@1": 69.7, "val_acc@5": 89})
    assert (last.step, last.values) == (5001, first.values)
    assert not any(name.startswith("val") for name in first.values)
    assert [point.step for point in points_of(batches + summary)] == [0] * 4  # before the training


def test_a_heading_names_the_epoch_of_the_lines_below() -> None:
    points = printed("pytorch_transfer_learning")
    assert steps(points, "train_loss") == [(1, 0.5922), (2, 0.4922)]
    assert steps(points, "val_acc") == [(1, 0.9216), (2, 0.9316)]
    assert {point.total for point in points} == {25}
    assert [step for step, _ in steps(printed("pytorch_quickstart"), "loss")] == [64, 6464, 60_064]


def test_a_pair_of_counts_in_brackets_is_the_epoch_and_the_batch() -> None:
    text = "".join(f"[{epoch}/25][{batch}/1583]\tLoss_D: 1.2\n" for epoch in (0, 1, 2) for batch in (0, 50))
    assert [point.step for point in points_of(text)] == [0, 50, 1583, 1633, 3166, 3216]


def test_keras_bars_count_through_the_epochs_and_an_evaluation_afterwards_is_one() -> None:
    points = printed("keras")
    assert [step for step, _ in steps(points, "loss")] == [50, 100, 150, 200]
    assert steps(points, "val_loss") == [(100, 0.4)]
    assert steps(points, "eval_loss") == [(200, 0.2)]
    assert points[0].total == 500


def test_lightning_bars_count_through_the_epochs() -> None:
    points = printed("lightning")
    assert [step for step, _ in steps(points, "train_loss")] == [50, 500, 510]
    assert {point.rule for point in points} == {"epochs"}


def test_dictionaries_of_the_trainer_stand_at_the_step_of_its_bar_and_not_of_the_evaluation() -> None:
    """What transformers 5.23 printed: 40 steps, a report each 5, an evaluation of 50 batches each 10 and one at the end."""
    points = printed("transformers_trainer")
    assert [step for step, _ in steps(points, "loss")] == list(range(5, 41, 5))
    assert [step for step, _ in steps(points, "eval_loss")] == [10, 20, 30, 40]
    assert {point.total for point in points} == {40}


def test_the_summary_of_the_trainer_gives_its_mean_loss_a_name_of_its_own() -> None:
    """`train_loss` in its last dictionary is the mean of the whole training, and not the loss where it ended."""
    points = printed("transformers_trainer")
    assert steps(points, "mean_train_loss") == [(40, 3.669)]
    assert steps(points, "train_loss") == []
    assert steps(points, "loss")[-1] == (40, 3.667)


def test_the_metrics_that_the_trainer_logs_behind_its_summary_are_named_alike() -> None:
    text = "***** train metrics *****\n  epoch      =    3.0\n  train_loss =  2.012\n  train_runtime = 0:00:04.12\n"
    after = "***** eval metrics *****\n  eval_loss  =    1.5\nepoch 4 train_loss = 1.5\n"
    assert [point.values for point in points_of(text + after)] == [
        {"mean_train_loss": 2.012}, {"eval_loss": 1.5}, {"train_loss": 1.5}
    ]  # fmt: skip


def test_a_dictionary_of_the_trainer_waits_for_one_line_at_most() -> None:
    bar, dictionary = "\r 10%|█   | 50/500 [00:10<01:30,  5.00it/s]", "\n{'loss': 2.3, 'epoch': 0.5}\n"
    assert steps(points_of(bar + dictionary), "loss") == [(50, 2.3)]
    assert steps(points_of(bar + dictionary + "\n12 files were saved\n" + bar.replace("50/", "60/")), "loss") == [
        (50, 2.3)
    ]
    curves = Curves()
    assert [point.rule for point in curves.feed((bar + dictionary).encode())] == ["bars"]
    assert [point.step for point in curves.feed(bar.replace("50/", "51/").encode() + b"\r")] == [51, 51]


def test_a_bar_that_is_drawn_again_and_again_gives_one_value_a_count() -> None:
    """What tqdm 4.70 printed for three epochs of 40 steps with a postfix, which draws the bar more often than it counts."""
    points = printed("tqdm")
    assert steps(points, "loss") == [
        (0, 1.0), (24, 0.0417), (40, 0.0244), (63, 0.0159), (80, 0.0123), (103, 0.00971),
    ]  # fmt: skip
    assert steps(points, "val_loss") == [(24, 1.0), (63, 0.5), (103, 0.333)]
    assert {point.total for point in points} == {120}


BAR = "\r 10%|█         | 100/1000 [00:10<01:30, 10.00it/s{}]"
ENDLESS = "\r100it [00:10, 10.00it/s{}]"


@pytest.mark.parametrize(
    ("behind", "point"),
    [
        ("step 101: loss 2.0", Point("iterations", 101, {"loss": 2}, None)),
        (
            "step 200: train loss 1.5, val loss 1.7",
            Point("iterations", 200, {"train_loss": 1.5, "val_loss": 1.7}, None),
        ),
        ("loss: 0.5 | lr: 1e-3", Point("pairs", 100, {"loss": 0.5, "lr": 0.001}, 1000)),
        ("{'loss': 2.3, 'epoch': 0.5}", Point("trainer", 100, {"loss": 2.3}, 1000)),
        ("12 files were saved", None),
        ("   ", None),
    ],
)
def test_what_is_printed_behind_a_bar_is_a_line_of_its_own(behind: str, point: Point | None) -> None:
    """`print` in a loop of tqdm: the bar has no end of the line, and stderr and stdout share the pipe."""
    bar = Point("bars", 100, {}, 1000)
    assert points_of(BAR.format("") + behind + "\n") == ([bar, point] if point else [bar])
    endless = point and point._replace(total=None)
    assert points_of(ENDLESS.format("") + behind + "\n") == [bar._replace(total=None), *([endless] if endless else [])]


@pytest.mark.parametrize("bar", [BAR, ENDLESS])
def test_a_bar_ends_where_its_bracket_closes(bar: str) -> None:
    postfix = ", loss=0.5, box=[1, [2]], acc=0.25"
    values = [point.values for point in points_of(bar.format(postfix) + "val loss 0.7\n")]
    assert values == [{"loss": 0.5, "box": 1, "acc": 0.25}, {"val_loss": 0.7}]


def test_a_postfix_may_stand_behind_the_bracket_or_be_cut_off_within_it() -> None:
    """A `bar_format` of one's own ends with `]{postfix}`; a narrow terminal cuts."""
    behind = "".join(BAR.format("") + postfix for postfix in (", loss=0.5", ", loss=0.4"))
    assert points_of(behind) == [Point("bars", 100, {"loss": 0.5}, 1000)]  # one value a count, as inside the bracket
    assert points_of(BAR.format(", loss=0.5, box=[1, 2")[:-1]) == [Point("bars", 100, {"loss": 0.5, "box": 1}, 1000)]


def test_bars_that_share_a_line_are_read_one_after_the_other_and_each_rule_shows_its_own() -> None:
    line = "".join(f" {n}%|█   | {n}/100 [00:10<01:30, 5it/s]" for n in range(1, 100))
    assert [point.step for point in points_of(line)] == list(range(1, 100))
    curves = Curves()
    curves.feed(f"{BAR.format(', loss=0.5')}step 100: acc 0.5\n".encode())
    assert [rule["example"] for rule in curves.rules()] == ["step 100: acc 0.5", BAR.format(", loss=0.5").strip()]


def test_inner_bars_lead_and_go_on_counting_when_they_begin_again() -> None:
    points = printed("nested_bars")
    assert steps(points, "train_loss") == [(100, 0.52), (150, 0.42)]
    assert steps(points, "val_loss") == [(100, 0.61)]
    assert {point.total for point in points} == {300}


def test_the_rows_of_tables_are_read_under_their_header() -> None:
    assert steps(printed("fastai"), "valid_loss") == [(0, 0.401234), (1, 0.391234)]
    assert set(printed("fastai")[0].values) == {"train_loss", "valid_loss", "accuracy"}
    assert steps(printed("spacy"), "loss_ner") == [(0, 70.68), (200, 4003.57)]
    assert steps(printed("spacy"), "score") == [(0, 0.01), (200, 0.62)]


def test_rows_in_front_of_bars_count_when_the_bar_is_done() -> None:
    points = printed("yolo")
    assert steps(points, "box_loss") == [(8, 1.204), (16, 1.104)]
    assert steps(points, "map50") == [(8, 0.612), (16, 0.662)]
    assert {name for point in points for name in point.values} == {
        "box_loss", "cls_loss", "dfl_loss", "p", "r", "map50", "map50-95"
    }  # fmt: skip


def test_a_bar_stays_the_same_one_when_a_figure_in_its_label_is_shorter() -> None:
    """YOLO puts the row of a table in front, in columns: `1.2` is as wide as `1.234`."""
    row = "        1/3      2.51G{:>11}         32        640:  50%|█████     | {}/8 [00:02<00:00,  3.95it/s]\n"
    text = "".join(row.format(loss, count) for loss, count in ((1.234, 4), (1.2, 6), (12.34, 8)))
    assert [point.step for point in points_of(text)] == [4, 6, 8]


def test_ultralytics_draws_bars_of_its_own_and_its_rows_are_read_like_those_in_front_of_tqdm() -> None:
    """In the form of ultralytics 8.3: each state has \\r in front, the last one comes twice, with an end of the line."""
    redrawn = (PRINTED / "ultralytics.txt").read_bytes().decode()
    last_states = "\n".join(line.rpartition("\r")[2] for line in redrawn.split("\n"))
    for text in (redrawn, last_states):
        points = [point for point in points_of(text) if point.values]
        assert steps(points, "box_loss") == [(8, 1.153), (16, 1.053)]
        assert steps(points, "map50") == [(8, 0.617), (16, 0.637)]
        assert [point.values.keys() for point in points[:2]] == [
            {"box_loss", "cls_loss", "dfl_loss"}, {"p", "r", "map50", "map50-95"}
        ]  # fmt: skip
        assert {(point.rule, point.total) for point in points} == {("tables", 800)}
    told = [point.step for point in points_of(redrawn) if not point.values and point.total == 800]
    assert told == [0, 4, 7, 8, 8, 12, 15, 16]


def test_what_is_printed_behind_a_bar_of_ultralytics_is_a_line_of_its_own() -> None:
    points = points_of("train: 25% ━━━───────── 2/8 11.4it/s 0.2s<0.7sval loss 0.5\n")
    assert points == [Point("bars", 2, {}, 8), Point("pairs", 2, {"val_loss": 0.5}, 8)]


def test_without_any_step_lines_are_counted_and_those_about_one_step_share_it() -> None:
    points = points_of("train loss 0.5\nval loss 0.6\ntrain loss 0.4\nval loss 0.5\n")
    assert steps(points, "train_loss") == [(0, 0.5), (1, 0.4)]
    assert steps(points, "val_loss") == [(0, 0.6), (1, 0.5)]


@pytest.mark.parametrize("form", ["step: {}\n", "  global_step = {}\n", "Iteration: {}/90\n", "--- iter: {} ---\n"])
def test_a_line_of_a_step_alone_is_the_step_of_the_lines_below(form: str) -> None:
    text = "".join(f"{form.format(step)}loss: 0.5\nacc: 0.25\n" for step in (10, 20))
    points = points_of(text)
    assert steps(points, "loss") == [(10, 0.5), (20, 0.5)]
    assert steps(points, "acc") == [(10, 0.25), (20, 0.25)]


def test_below_a_step_alone_what_comes_again_is_one_step_further() -> None:
    """`step: 1000` may be said once, of a checkpoint that the script goes on from."""
    points = points_of("step: 1000\n" + "train loss 0.5\nval loss 0.6\n" * 3)
    assert [step for step, _ in steps(points, "train_loss")] == [1000, 1001, 1002]
    assert [step for step, _ in steps(points, "val_loss")] == [1000, 1001, 1002]


@pytest.mark.parametrize(
    "heading", ["Step 2", "Step 2: Training", "== STEP 2 ==", "steps: 100", "step: 10 of warming up"]
)
def test_a_heading_of_a_recipe_is_no_step(heading: str) -> None:
    assert [point.step for point in points_of(f"{heading}\nloss: 0.5\nloss: 0.4\n")] == [0, 1]


def test_the_steps_of_keras_tutorial_are_laid_end_to_end_where_they_begin_again_with_each_epoch() -> None:
    line = "Training loss (for 1 batch) at step {}: 0.5\n"
    again = "".join(f"\nStart of epoch {e}\n" + "".join(line.format(s) for s in (0, 100, 200)) for e in (0, 1, 2))
    through = "".join(f"\nStart of epoch {e}\n" + "".join(line.format(300 * e + s) for s in (0, 100)) for e in (0, 1))
    laid_out = [0, 100, 200, 200, 300, 400, 400, 500, 600]
    assert [point.step for point in points_of(again)] == laid_out
    first = Curves()
    two, third = again[: again.index("\nStart of epoch 2")], again[again.index("\nStart of epoch 2") :]
    first.feed(two.encode())
    assert [point.step for point in Curves(counting=first.counting).feed(third.encode())] == laid_out[6:]
    assert [point.step for point in points_of(through)] == [0, 100, 300, 400]


def test_a_step_without_an_epoch_beside_it_counts_on_though_others_begin_again() -> None:
    lines = "".join(
        f"epoch {e} step {s} loss 0.5\n" + (f"step {20 * e + s} acc 0.5\n" if s == 20 else "")
        for e in (0, 1, 2)
        for s in (10, 20)
    )
    assert [step for step, _ in steps(points_of(lines), "acc")] == [20, 40, 60]


def test_bars_of_bytes_count_no_steps() -> None:
    for rate in ("4.10MB/s", "500kB/s", "?B/s", "1.2GiB/s"):
        assert points_of(f"model.bin: 45%|████▌     | 4.50M/10.0M [00:01<00:01, {rate}]\nloss: 0.5\n") == [
            Point("pairs", 0, {"loss": 0.5}, None)
        ]


def test_steps_that_begin_again_with_each_epoch_and_steps_that_do_not_are_told_apart() -> None:
    again = points_of("".join(f"epoch {e} step {s} loss 0.5\n" for e in (1, 2, 3) for s in (10, 20)))
    through = points_of("".join(f"epoch {e} step {20 * (e - 1) + s} loss 0.5\n" for e in (1, 2, 3) for s in (10, 20)))
    assert [p.step for p in again] == [p.step for p in through] == [10, 20, 30, 40, 50, 60]


IMAGENET = "Epoch: [{}][{:2}/60]\tLoss 0.06 (0.06)\n"


def test_an_attempt_that_goes_on_counts_its_epochs_as_the_one_before_did() -> None:
    first = Curves()
    first.feed("".join(IMAGENET.format(epoch, batch) for epoch in range(6) for batch in (0, 50)).encode())
    second = Curves(counting=first.counting)
    points = second.feed("".join(IMAGENET.format(epoch, batch) for epoch in (5, 6, 7) for batch in (0, 50)).encode())
    assert [point.step for point in points] == [300, 350, 360, 410, 420, 470]
    assert second.counting == first.counting


def test_without_an_attempt_before_it_a_later_epoch_is_taken_to_be_counted_from_one() -> None:
    assert points_of(IMAGENET.format(5, 0))[0].step == 240


def test_of_what_is_noted_about_the_counting_only_what_is_well_formed_counts() -> None:
    noted = Counting(0, 2000, True)
    assert Counting.from_json(json.loads(json.dumps(noted._asdict()))) == noted
    assert Counting.from_json({"first_epoch": 0, "longest": -1, "restarts": 1}) == Counting(first_epoch=0)
    for said in (None, [], "x", {"first_epoch": 7}, {"first_epoch": "0"}, {"first_epoch": True}, {"longest": 2**31}):
        assert Counting.from_json(said) == Counting()


@pytest.mark.parametrize("form", ["[{}, {:5}] loss: 2.5\n", "epoch {} step {} loss 2.5\n"])
def test_an_attempt_that_goes_on_knows_how_long_an_epoch_is_that_nobody_names(form: str) -> None:
    text = "".join(form.format(epoch, batch) for epoch in (1, 2, 3, 4) for batch in (1000, 2000))
    whole = [point.step for point in points_of(text)]
    first = Curves()
    first.feed("".join(text.splitlines(keepends=True)[:4]).encode())
    second = Curves(counting=first.counting)
    assert [point.step for point in second.feed("".join(text.splitlines(keepends=True)[4:]).encode())] == whole[4:]


STEPLESS = ["{{'loss': {}, 'epoch': 0.5}}\n", "loss: {}\n", "train loss {}\nval loss 0.5\n"]


@pytest.mark.parametrize("form", STEPLESS)
def test_an_attempt_that_goes_on_counts_lines_without_a_step_from_where_the_one_before_ended(form: str) -> None:
    """Else its points would take the place of those that are there."""
    counting, found = Counting(), []
    for count in (20, 0, 5, 1):  # of four attempts; one ends before it has printed anything
        curves = Curves(counting=Counting.from_json(json.loads(json.dumps(counting._asdict()))))
        points = [*curves.feed("".join(form.format(f"0.{n + 1}") for n in range(count)).encode()), *curves.close()]
        found += [point.step for point in points if "val_loss" not in point.values]
        counting = curves.counting
    assert found == list(range(26))


def test_a_note_of_an_older_agent_is_read_and_one_that_is_not_well_formed_counts_nothing() -> None:
    assert Counting.from_json({"first_epoch": 1, "longest": 5, "restarts": None}) == Counting(1, 5)
    counted = [["pairs", 3], ["none", 2], ["bars", -1], ["tables", "x"], ["pairs"], "pairs", [["a"], 1], None]
    assert Counting.from_json({"counted": counted}) == Counting(counted=(("pairs", 3),))
    for said in (None, 5, "pairs", {"pairs": 3}):
        assert Counting.from_json({"counted": said}) == Counting()


def test_a_rule_that_is_off_gives_no_points_but_its_steps_and_is_still_listed() -> None:
    text = " 10%|█     | 50/500 [00:10<01:30, 5.00it/s, loss=0.5]\nacc: 0.9\n"
    assert points_of(text, off=("bars",)) == [Point("pairs", 50, {"acc": 0.9}, 500)]
    curves = Curves(off=["bars"])
    curves.feed(text.encode())
    assert [(rule["rule"], rule["points"]) for rule in curves.rules()] == [("bars", 0), ("pairs", 1)]


def test_the_rules_seen_are_described_for_the_job_page() -> None:
    curves = Curves()
    curves.feed(b"iter 1: loss 2.5, time 5ms\niter 2: loss 2.4, lr 0.1\n" + b"loss=1 " + b"x" * 300 + b"\n")
    iterations, pairs = curves.rules()
    assert iterations == {
        "rule": "iterations", "label": RULES["iterations"], "example": "iter 1: loss 2.5, time 5ms",
        "names": ["loss", "lr"], "points": 2,
    }  # fmt: skip
    assert pairs["example"] == "loss=1 …"


def units(text: str) -> dict[object, object]:
    curves = Curves()
    curves.feed(text.encode())
    return {rule["rule"]: rule.get("unit") for rule in curves.rules()}


MNIST = "Train Epoch: {} [{}/3200 ({}%)]\tLoss: 2.300000\n"


def test_the_lines_of_the_mnist_example_are_said_to_count_samples() -> None:
    lines = "".join(MNIST.format(epoch, count, count // 32) for epoch in (1, 2) for count in range(0, 3200, 640))
    assert units(lines + "Test set: Average loss: 0.0500, Accuracy: 9833/10000 (98%)\n") == {
        "epochs": "samples", "pairs": None
    }  # fmt: skip


def test_counts_that_may_be_of_batches_are_not_said_to_be_of_samples() -> None:
    assert units(MNIST.format(1, 640, 20)) == {"epochs": None}  # a single line does not tell
    assert units("".join(MNIST.format(1, batch, 0) for batch in range(5))) == {"epochs": None}  # each batch is printed
    assert units("".join(MNIST.format(epoch, 3000, 94) for epoch in (1, 2, 3))) == {"epochs": None}
    timm = "Train: 0 [{:4}/1251 ({:3}%)]  Loss: 6.954 (6.95)\n"
    assert units("".join(timm.format(batch, batch // 12) for batch in (0, 50, 100))) == {"epochs": None}


def test_a_name_that_the_helper_gives_is_left_out_from_then_on_and_the_others_are_not() -> None:
    curves = Curves()
    line = "step {}: loss 0.5, acc 0.25\n"
    assert curves.feed(line.format(1).encode()) == [Point("iterations", 1, {"loss": 0.5, "acc": 0.25}, None)]
    curves.leave_out(["loss"])
    assert curves.feed(line.format(2).encode()) == [Point("iterations", 2, {"acc": 0.25}, None)]
    curves.leave_out(["acc"])
    assert curves.feed(line.format(3).encode()) == [Point("iterations", 3, {}, None)]  # still tells the step
    (rule,) = curves.rules()
    assert (rule["names"], rule["points"]) == (["acc", "loss"], 2)


def test_carriage_returns_end_a_state_of_a_line() -> None:
    assert [point.step for point in points_of("loss=1.5 step=1\rloss=1.4 step=2\r\nloss=1.3 step=3")] == [1, 2, 3]


def test_a_line_of_4097_bytes_is_not_looked_at_and_the_next_one_is() -> None:
    curves = Curves()
    for piece in (b"loss=1 " + b"x" * 2000, b"y" * 2090, b"\nloss=2\n"):
        points = curves.feed(piece)
    assert points == [Point("pairs", 0, {"loss": 2.0}, None)]


def test_names_are_bounded_in_length_and_number() -> None:
    curves = Curves()
    points = [p for n in range(600) for p in curves.feed(f"step {n}: loss_{'x' * 100}{n}=1.5 loss_{n}=0.5\n".encode())]
    names = {name for point in points for name in point.values}
    assert len(names) == 500
    assert max(map(len, names)) == 60
    assert curves.rules()[0]["names"] == sorted(names)


@pytest.mark.parametrize(
    "text",
    [
        "Test set: {}: 0.5",
        "Test: [1/2] {}: 0.5",
        "[10]\ttraining's {0}: 0.5\tvalid_0's {0}: 0.6",
        "Validation: 100%|█| 10/10 [00:10<01:30, 5it/s, {}=0.5]",
        "Epoch 1/1\n10/10 - 1s - loss: 0.5\n5/5 - 1s - {}: 0.5",
    ],
)
def test_a_name_is_no_longer_for_the_group_in_front_of_it(text: str) -> None:
    names = [name for point in points_of(text.format("x" * 56 + "loss")) for name in point.values if name != "loss"]
    assert names and all(len(name) == 60 for name in names)


def test_a_step_beyond_what_the_server_stores_is_not_one() -> None:
    assert points_of(f"step {2**31} loss 0.5") == [Point("pairs", 0, {"loss": 0.5}, None)]


PIECES = [
    "loss", "Epoch", " ", ": ", "=", "3/10", "0.5", "nan", "-inf", "1e-5", "step", "[", "]", "|", "%|", "\r", "\n", "{", "}",
    "'", '"', ",", "it [00:10, 5.00it/s", "50/500 [00:10<01:30, 5it/s, ", "val ", "\x1b[1m", "\x1b", "12:30:05", "9" * 40,
    "accuracy", "\t", "eval", "train", "é", "\ufffd", "\x00", "- 5s ", "[==>] ", "batch", "np.float64(", ")", "epoch  train_loss  score\n", "  ", "lr", "'epoch': 1.5",
    "%|█| 5/50 [00:10<01:30, 5it/s]", "% ━━─ 5/50 1.5it/s 0.9s", "Test: [", "[1/2][3/4]", "valid_0's auc: ", "| INFO | a.b:c:", "train.py:",
    "step: 7\n", "0,5", "5.00k/10.0k [00:10<00:10, 5it/s]", " (for 1 batch) at step 3: ",
]  # fmt: skip
log_texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join).map(str.encode)


@given(
    data=st.lists(st.one_of(st.binary(max_size=200), log_texts), max_size=8).map(b"".join),
    cuts=st.lists(st.integers(0, 1500), max_size=12),
)
def test_any_bytes_in_any_cuts_give_the_same_points_within_bounds(data: bytes, cuts: list[int]) -> None:
    whole, cut = Curves(), Curves()
    expected = [*whole.feed(data), *whole.close()]
    places = sorted({0, len(data), *(min(place, len(data)) for place in cuts)})
    found = [point for a, b in zip(places, places[1:], strict=False) for point in cut.feed(data[a:b])]
    assert [*found, *cut.close()] == expected
    assert cut.rules() == whole.rules()
    for point in expected:
        assert point.rule in RULES
        assert type(point.step) is int and 0 <= point.step < MAX_STEP
        assert point.total is None or point.step <= point.total < MAX_STEP
        for name, value in point.values.items():
            assert 0 < len(name) <= 60
            assert value is None or (type(value) is float and math.isfinite(value))


HOSTILE = [
    "1", "a", "1,", " ", "= ", "[1", "-", "%|", "{'a':", "1/", "{", "a b ", "e1", "\x1b[", "\x1b]", "'a': 1 ", "it [",
    "%||1/2 [", "%||1/2 []", "1it [1,]", "% ━", "% ━ 1/2 ", "1/2][", "val: [1/2] ", "a's ", "| A | a:", "a.py:",
    " at step 1: ", " (a", "1,5,", "step: ", "1.5k/", "1.5kit [", "%||1.5k/2k [",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_line_costs_more_than_its_length(piece: str) -> None:
    """Eight times the length takes about eight times as long; a search that backtracks would take sixty-four and more."""
    short, long = (piece * (length // len(piece)) + "{'a' 1:nan}" for length in (500, 4000))
    assert _seconds(long) < 40 * _seconds(short) + 0.01


def _seconds(line: str) -> float:
    curves, data, best = Curves(), (line + "\n").encode() * 20, math.inf
    for _ in range(5):
        start = time.process_time()
        curves.feed(data)
        best = min(best, time.process_time() - start)
    return best


def test_the_line_shown_with_a_rule_holds_no_half_of_a_word() -> None:
    """It is masked later, and half a secret would not be."""
    secret = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
    curves = Curves()
    curves.feed(f"step 10: loss 2.0 {'x' * 120} token={secret} end\n".encode())
    (rule,) = curves.rules()
    assert rule["example"].startswith("step 10: loss 2.0 xxx") and "ghp" not in rule["example"]
