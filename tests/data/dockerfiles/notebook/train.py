"""Trains a model, in an image that a build is tested with."""

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

data = load_iris()
print(LogisticRegression(max_iter=1000).fit(data.data, data.target).score(data.data, data.target))
