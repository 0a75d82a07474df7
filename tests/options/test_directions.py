"""The direction of a monitor, by its name."""

import pytest

from looplab.options.directions import direction, guessed, is_guess, rises

UP = """val_accuracy noisy_top_k_categorical_accuracy auc_1 f1_score val_match evaluation_solved score
success_rate wins evaluation_return reward recall@5 mean_io_u val_map50 log_likelihood eval/score win_rate
binary_iou r2_score"""
DOWN = """loss val_loss accuracy_loss generator/loss mean_squared_error error_rate val_mae reward_mse
kl_divergence brier_score perplexity negative_log_likelihood sparse_categorical_crossentropy fid"""
UNKNOWN = "episode_length val_own elbo norm"


@pytest.mark.parametrize("name", [*UP.split(), *DOWN.split(), *UNKNOWN.split()])
def test_the_name_of_a_monitor_says_whether_it_should_rise(name):
    assert rises(name) == (name in UP.split())
    assert is_guess(name, "auto") == (name in UNKNOWN.split())
    assert rises(name, "max") and not rises(name, "min") and not is_guess(name, "min")


def test_the_texts_name_the_direction_and_the_remedy():
    assert direction("val_loss", "auto") == "val_loss, lower is better"
    assert direction("val_loss", "max") == "val_loss, higher is better"
    assert "checkpoint.mode: 'auto' does not know" in guessed("norm", "checkpoint.mode")
    assert "lower 'norm' is better, and takes the lower one. Set the mode" in guessed(
        "norm", "checkpoint.mode"
    )
