"""How sharply the log-probability of what was learnt bends in the adapter's parameters.

Four approximations of the empirical Fisher F = E[g g'], g the gradient of one example's
log-probability (the sum over its scored tokens):

    diagonal     E[g^2] parameter by parameter, from the gradients of single examples. The square
                 of a batch's mean gradient would be too small by about the size of the batch.
    Kronecker    for a matrix P (m, n) that acts as z = P h: F ~ A x G, A = mean of h h' over all
                 tokens (n, n), G = sum of (d log p / d z)(d log p / d z)' over an example's tokens,
                 averaged over examples (m, m). Exact for examples of one token if h and the
                 gradient are independent.
    coupled      the same for the two matrices of one LoRA layer and what lies between them: blocks
                 A_ij x G_ij with A_AB = mean of h_A h_B' and G_AB in the same way. The block
                 matrices (A_ij) and (G_ij) are positive semi-definite, being mean outer products of
                 stacked vectors, and the block-wise Kronecker (Khatri-Rao) product of two such
                 matrices is a principal submatrix of their Kronecker product. So the quadratic form
                 is never negative, which dropping or mixing blocks of different origin would break.
    full         E[g g'] of all entries of one small matrix, CURLoRA's U: (r^2, r^2).

A curvature is made of sums over examples (`sums`), which add up over workers, and is divided by
their number at the end. `derivatives.observe` computes what is summed, from a model; `forms` has
the quadratic form of each approximation.

References:
    Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature". https://arxiv.org/abs/1503.05671
    Eschenhagen et al. (2023), "Kronecker-Factored Approximate Curvature for Modern Neural Network
    Architectures" (K-FAC-expand). https://arxiv.org/abs/2311.00636
    Sliwa et al. (2025), "Mitigating Forgetting in Low Rank Adaptation" (the same three structures
    over LoRA's parameters). https://arxiv.org/abs/2512.17720
    Liu (1999), "Matrix results on the Khatri-Rao and Tracy-Singh products".
"""
