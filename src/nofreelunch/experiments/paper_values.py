"""The paper's findings that ours are compared with, each with its place (Tsipras et al. 2018, first arXiv version).

No such number stands anywhere else in the code; settings of the paper's, as those of Appendix A, stand where they are
used.
"""

THEOREM_2_1_P = 0.7
"""Equation (3): how often x_1 agrees with the label."""

AVERAGE_MU = 3.0
"""Section 2.1: eta sqrt(d) from which the average of the weak features is said to suffice."""

AVERAGE_CLEAN = 0.99
"""Section 2.1: its standard accuracy is more than this."""

AVERAGE_ROBUST = 0.01
"""Section 2.1: its adversarial accuracy at eps = 2 eta is at most this."""

THEOREM_2_2_MU = 4.0
"""Theorem 2.2: eta sqrt(d) is at least this."""

THEOREM_2_2_STANDARD = {"clean": 0.99, "robust": 0.01}
"""Theorem 2.2, standard SVM: more than the first, less than the second at eps >= 2 eta."""

THEOREM_2_2_ADVERSARIAL = 0.7
"""Theorem 2.2, adversarial SVM: standard and adversarial accuracy, against any eps < 1."""

LEMMA_C_2 = {"v": 2**-0.5, "loss without it": 0.005, "loss of z alone": 0.0004}
"""Lemma C.2 and its proof: v is at least the first; the losses are more than the second and less than the third."""

TABLE_2_EPS = {
    ("mnist-5v7", "linf"): 0.2,
    ("mnist", "linf"): 0.3,
    ("mnist", "l2"): 1.5,
    ("cifar10", "linf"): 4 / 255,  # printed as 4: the scale is 0-255
    ("cifar10", "l2"): 80 / 255,  # printed as 80
    ("restricted-imagenet", "linf"): 0.005,
    ("restricted-imagenet", "l2"): 1.0,
}
"""Table 2: eps of training and evaluation, here on the scale [0, 1]."""

TABLE_3_EPS = {
    ("mnist", "linf"): 0.3,
    ("mnist", "l2"): 4.0,
    ("cifar10", "linf"): 32 / 255,  # printed as 32: the scale is 0-255
    ("cifar10", "l2"): 1200 / 255,  # printed as 1200
    ("restricted-imagenet", "linf"): 0.25,
    ("restricted-imagenet", "l2"): 40.0,
}
"""Table 3: eps of the large-eps adversarial examples, here on the scale [0, 1]."""

TABLE_4 = {
    ("standard", "clean"): 98.38,
    ("adversarial", "clean"): 94.05,
    ("adversarial", "robust"): 76.05,
}
"""Table 4, in percent: the cells that can be placed. The text does not say whether they are train or test."""

TABLE_4_UNPLACED = (70.05, 92.10, 13.69)
"""Table 4's other surviving values; its layout is lost in the text that we have, so their cells are unknown."""
