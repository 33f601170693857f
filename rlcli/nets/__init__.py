"""Networks as functions of one flat parameter vector, their optimiser and their action distributions.

No `nn.Module`: a network object knows sizes only, and its parameters are data. An update is then a pure
function of vectors, which compiles whole, resumes exactly and is tested with six numbers.
"""
