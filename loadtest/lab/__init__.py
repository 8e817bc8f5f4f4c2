"""Experiments: a scenario's load by Locust, its faults on the deployment's own processes, and a verdict on both."""
