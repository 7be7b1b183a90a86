"""What the loss sees in an image: its gradient with respect to the pixels, and that gradient as a picture."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nofreelunch.attacks.door import attacking, check_batch, first_logits
from nofreelunch.attacks.gradient import loss_gradient
from nofreelunch.attacks.losses import ce
from nofreelunch.types import Images, Inputs, Labels, Logits, Loss, Model, PerExample

_CLIP = 3.0  # standard deviations, as in Figures 5 and 8


def cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """-log p_y, as the softplus of the log-odds of a wrong answer: its gradient keeps its direction near p_y = 1."""
    return F.softplus(log_odds(logits, y))


def log_odds(logits: Logits, y: Labels) -> PerExample:
    """log((1 - p_y) / p_y): its gradient points where that of the cross-entropy does, and never vanishes."""
    return ce(logits, y)


def input_gradient(model: Model, x: Inputs, y: Labels, loss: Loss = cross_entropy) -> Inputs:
    """The gradient of each example's loss with respect to its input; the model is left as it was found.

    Tsipras et al. 2018, Section 3.3. For pictures and measures, which do not depend on the gradient's length, take
    `loss=log_odds`: on a confident model the cross-entropy's gradient may be too short for a float.

    Args:
        model: maps inputs to logits (n, k), k >= 2; used in evaluation mode.
        x: float inputs in [0, 1].

    Raises:
        InputError: if model, inputs and labels do not go together.
    """
    y = check_batch(model, x, y, (0.0, 1.0))
    with attacking(model, x.device) as precise:
        first_logits(precise, x, y)
        return loss_gradient(loss, precise, x, y)


def gradient_pictures(grad: Images) -> Float[Tensor, "n 3 h w"]:
    """Gradients as colour images in [0, 1], clipped to +-3 of their own standard deviations and rescaled.

    Tsipras et al. 2018, Figures 5 and 8. Colour images keep their channels, with 0 at mid-grey; of all others the sum
    over channels is shown, blue where positive, red where negative, white where 0.
    """
    if grad.shape[1] != 3:
        grad = grad.sum(1, keepdim=True)
    deviation = grad.std((1, 2, 3), correction=0, keepdim=True)
    scaled = (grad / (_CLIP * deviation).clamp(min=torch.finfo(grad.dtype).tiny)).clamp(-1, 1)
    if grad.shape[1] == 3:
        return (scaled + 1) / 2
    positive, negative = scaled.clamp(min=0), (-scaled).clamp(min=0)
    return 1 - torch.cat([positive, positive + negative, negative], dim=1)
