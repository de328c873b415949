"""Training of a model that is stored in few bits, by the same model before rounding; the extra ``train`` (torch).

    teacher.py     the model before rounding, run by ONNX Runtime: what is to be met, and what needs no training
    operators.py   what torch computes for each operator between the weights and the outputs
    learned.py     codes, scales, norms and biases as torch parameters, and how they get back into the graph
    student.py     the model as it is stored, run by torch
    loss.py        how far the student is from its teacher
    distilling.py  the steps, and the gate by held-back samples
    unfinished.py  what a run has got so far, for another to go on with
    ranges.py      ranges of values as the model gives them that has learned

Nothing here is imported by any other command; only files that compute import torch.
"""
