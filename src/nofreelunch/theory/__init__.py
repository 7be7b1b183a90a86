"""The paper's Gaussian model, solved: accuracies, bound, frontier, SVMs, transfer; exact, or with a certificate."""

from nofreelunch.theory.bounds import robust_accuracy_bound
from nofreelunch.theory.frontier import Frontier, best_robust_accuracy, frontier
from nofreelunch.theory.gaussian import GaussianModel
from nofreelunch.theory.sample_svm import SampleSvm, fit_sample_svm
from nofreelunch.theory.summary import summary
from nofreelunch.theory.svm import SvmSolution, fit_svm, zero_from
from nofreelunch.theory.transfer import transfer_accuracy

__all__ = [
    "Frontier",
    "GaussianModel",
    "SampleSvm",
    "SvmSolution",
    "best_robust_accuracy",
    "fit_sample_svm",
    "fit_svm",
    "frontier",
    "robust_accuracy_bound",
    "summary",
    "transfer_accuracy",
    "zero_from",
]
