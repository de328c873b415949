"""What a rewrite costs, asked in one way: a reference, candidates with one thing changed, and figures of each.

reference      the model as it came, in ONNX Runtime; figures of candidates against it
candidates     prepare the model once, alter it, lower it, write it, measure it, let it go
by_ingredient  what each replacement alone costs
by_pass        what each pass adds to the error of those before it
by_tensor      what quantizing each tensor costs
one_tensor     everything that is known of a single tensor
allocation     bits for each tensor: least noise for a size, or the smallest size for a score
tradeoff       size against quality, in many ways and with other tools
peers          other tools' results of the same model
"""
