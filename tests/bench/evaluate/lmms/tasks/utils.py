"""Of local tasks for lmms-eval: lines of JSON and images in the working folder."""

from PIL import Image


def image(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def score(doc, results):
    return {"accuracy": float(results[0].strip().lower() == doc["answer"].lower())}
