"""The packages: those of asr_exp/, and the folders of conf/, which a wheel holds as asr_exp.conf. The rest is
in pyproject.toml.
"""

from setuptools import find_namespace_packages, find_packages, setup

conf = [f"asr_exp.conf.{name}" for name in find_namespace_packages("conf")]
setup(packages=[*find_packages(include=["asr_exp*"]), "asr_exp.conf", *conf])
