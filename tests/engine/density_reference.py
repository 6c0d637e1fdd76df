#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the numbers of test_estimates.cpp: kernel estimates of SciPy (gaussian_kde) and scikit-learn (KernelDensity),
and a mixture that scikit-learn fits (GaussianMixture). Written with SciPy 1.17 and scikit-learn 1.9."""

import numpy as np
from scipy.stats import gaussian_kde
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

# The same points as in the test, without a random generator.
i = np.arange(40)
POINTS = np.stack([np.sin(1.3 * i) + 0.02 * i, np.cos(2.1 * i) * (1 + 0.05 * i)], axis=1)
AT = np.array([[0.0, 0.0], [1.0, -2.0], [-4.0, 5.0]])

for rule in ("scott", "silverman"):
    kde = gaussian_kde(POINTS.T, bw_method=rule)
    print(rule, *(f"{v:.17g}" for v in (kde.factor, *kde.covariance[np.tril_indices(2)], *kde.logpdf(AT.T))))
for rule in ("scott", "silverman"):
    kde = gaussian_kde(POINTS[:, 0], bw_method=rule)
    print("d = 1", rule, f"{kde.factor:.17g}", *(f"{v:.17g}" for v in kde.logpdf([0.0, 2.5])))
print("bandwidth 0.3", *(f"{v:.17g}" for v in KernelDensity(bandwidth=0.3).fit(POINTS).score_samples(AT)))

# Two lumps of these points, 12 units apart, the second one smaller in number and size.
LUMPS = np.concatenate([POINTS, 0.5 * POINTS[:20] + [12.0, 3.0]])
mixture = GaussianMixture(2, tol=1e-13, max_iter=10000, reg_covar=1e-13, random_state=0).fit(LUMPS)
order = np.argsort(-mixture.weights_)
print("mixture", mixture.n_iter_, *(f"{v:.15g}" for v in mixture.weights_[order]))
print("means", *(f"{v:.15g}" for v in mixture.means_[order].ravel()))
for k in order:
    print("covariance", *(f"{v:.15g}" for v in mixture.covariances_[k][np.tril_indices(2)]))
print("log-likelihood", f"{mixture.score(LUMPS):.15g}")

# A mixture whose parts overlap: expectation maximisation has work to do.
NEAR = np.concatenate([POINTS, 0.5 * POINTS[:20] + [3.0, 1.0]])
mixture = GaussianMixture(2, tol=1e-14, max_iter=100000, reg_covar=1e-13, n_init=20, random_state=0).fit(NEAR)
print("overlap", mixture.n_iter_, f"{mixture.score(NEAR):.15g}", *(f"{v:.10g}" for v in np.sort(mixture.weights_)[::-1]),
      *(f"{v:.10g}" for v in mixture.means_[np.argsort(-mixture.weights_)].ravel()))
