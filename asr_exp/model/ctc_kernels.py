"""Triton kernels of the CTC loss: log-sum-exp of frames, forward variables, backward variables, gradient.

A probability in the recursions is a mantissa in [1, 2), in double, and an exponent of its own, in int32: the
likelihood of a long utterance is far below the smallest double, and that of a state may be far below that of
its neighbour. Products and sums of such numbers are exact to double precision, and a state needs no logarithm
and no exponential but that of its logit. So cards that are slow in double (most but those for data centers)
need no other formulation: compiled for capability 8.9, the two recursions take 44 and 46 instructions in
double for two states and a frame.

The 2 L + 1 states of a transcript of L labels lie in two vectors of L + 1 lanes: lane j has the blank before
label j and label j itself (the last lane has the last blank alone). A frame then needs one value of another
lane, that of the label before (in the backward recursion: after). `tl.gather` hands it over; the compiler
puts the barriers that this needs between warps.

Every sum has an order of its own that no scheduling changes, so that results are the same in every run.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
ZERO = tl.constexpr(-(1 << 30))  # the exponent of 0; those of other numbers stay above half of it
TINY = tl.constexpr(1e-30)  # the smallest loss: 0 stands for a transcript that cannot be aligned


@triton.jit
def _probability(x, lse, floor):
    """exp(x - lse) as mantissa and exponent; what is below 2 ** floor is 0."""
    power = tl.maximum((x.to(tl.float64) - lse) * LOG2_E, floor)
    exponent = tl.floor(power)
    return tl.where(power > floor, tl.exp2(power - exponent), 0.0), exponent.to(tl.int32)


@triton.jit
def _shift(mantissa, by):
    """mantissa * 2 ** by, for by <= 0, by adding to the bits of the exponent; 0 is handed over with by = 0 or
    by < -1000.
    """
    bits = mantissa.to(tl.int64, bitcast=True) + (by.to(tl.int64) << 52)
    return tl.where(by > -1000, bits.to(tl.float64, bitcast=True), 0.0)


@triton.jit
def _sum(a_m, a_e, b_m, b_e):
    """a + b, with a mantissa of at most 4 from two of at most 2."""
    most = tl.maximum(a_e, b_e)
    return _shift(a_m, a_e - most) + _shift(b_m, b_e - most), most


@triton.jit
def _at(mantissa, exponent, lane, place):
    """The number of one lane; 0 for a place that is none."""
    here = lane == place
    found = tl.sum(tl.where(here, mantissa, 0.0), axis=0)
    return found, tl.where(place >= 0, tl.sum(tl.where(here, exponent, 0), axis=0), ZERO)


@triton.jit
def _normalise(mantissa, exponent):
    """The same number with a mantissa in [1, 2)."""
    bits = mantissa.to(tl.int64, bitcast=True)
    by = (bits >> 52) - 1023
    positive = mantissa > 0
    normal = (bits - (by << 52)).to(tl.float64, bitcast=True)
    return tl.where(positive, normal, 0.0), tl.where(positive, exponent + by.to(tl.int32), ZERO)


@triton.jit
def _utterance(table, number, utterances):
    """Of an utterance: frames, labels, where its labels begin, where its forward variables begin."""
    return (
        tl.load(table + number).to(tl.int32),
        tl.load(table + utterances + number).to(tl.int32),
        tl.load(table + 2 * utterances + number),
        tl.load(table + 3 * utterances + number),
    )


@triton.jit
def log_sum_exp_kernel(logits, lse, size, BLOCK: tl.constexpr):
    """`lse` of program (frame, utterance) from its `logits`, of which there are `size`."""
    place = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    row = logits + place * size
    lane = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float64)
    for first in range(0, size, BLOCK):
        x = tl.load(row + first + lane, mask=first + lane < size, other=float("-inf"))
        most = tl.maximum(most, x.to(tl.float64))
    top = tl.max(most, axis=0)
    total = tl.full([BLOCK], 0.0, tl.float64)
    for first in range(0, size, BLOCK):
        x = tl.load(row + first + lane, mask=first + lane < size, other=float("-inf"))
        total += tl.exp2((x.to(tl.float64) - top) * LOG2_E)
    tl.store(lse + place, top + tl.log2(tl.sum(total, axis=0)) * LN_2)


@triton.jit
def alpha_kernel(
    logits, lse, labels, table, alphas, powers, exact, losses, width, size, blank, floor,
    KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The forward recursion of one utterance: its loss in `exact` (inf: it cannot be aligned) and in `losses`
    (0 then), and with KEEP the forward variables of the labels, mantissas in `alphas` and exponents in
    `powers`.
    """
    number = tl.program_id(0)
    frames, count, first, kept = _utterance(table, number, tl.num_programs(0))
    rows = logits + number.to(tl.int64) * width * size
    sums = lse + number.to(tl.int64) * width
    lane = tl.arange(0, BLOCK)
    here = lane < count
    label = tl.load(labels + first + lane, mask=here, other=0)
    before = tl.load(labels + first + lane - 1, mask=here & (lane > 0), other=0)
    skips = here & (lane > 0) & (label != before)  # from the label before, without a blank between
    left = tl.maximum(lane - 1, 0)
    # Before the first frame all probability is in the blank of lane 0.
    blank_m = tl.where(lane == 0, 1.0, 0.0).to(tl.float64)
    blank_e = tl.where(lane == 0, 0, ZERO)
    label_m = tl.full([BLOCK], 0.0, tl.float64)
    label_e = tl.full([BLOCK], 0, tl.int32) + ZERO
    wrong = tl.load(sums) * 0.0
    # The logits of the next frame are on their way while a frame is computed.
    next_x = tl.load(rows + label, mask=here, other=float("-inf"))
    next_blank = tl.load(rows + blank)
    next_lse = tl.load(sums)
    for frame in range(frames):
        p_m, p_e = _probability(next_x, next_lse, floor)
        q_m, q_e = _probability(next_blank, next_lse, floor)
        wrong += next_lse - next_lse  # not a number once a frame is
        later = tl.minimum(frame + 1, frames - 1)
        next_x = tl.load(rows + later * size + label, mask=here, other=float("-inf"))
        next_blank = tl.load(rows + later * size + blank)
        next_lse = tl.load(sums + later)
        left_m = tl.where(lane > 0, tl.gather(label_m, left, 0), 0.0)
        left_e = tl.where(lane > 0, tl.gather(label_e, left, 0), ZERO)
        skip_m = tl.where(skips, left_m, 0.0)
        skip_e = tl.where(skips, left_e, ZERO)
        into_m, into_e = _sum(label_m, label_e, blank_m, blank_e)
        into_m, into_e = _sum(into_m, into_e, skip_m, skip_e)
        label_m, label_e = _normalise(into_m * p_m, into_e + p_e)
        into_m, into_e = _sum(blank_m, blank_e, left_m, left_e)
        blank_m, blank_e = _normalise(into_m * q_m, into_e + q_e)
        if KEEP:
            tl.store(alphas + kept + frame * count + lane, label_m, mask=here)
            tl.store(powers + kept + frame * count + lane, label_e, mask=here)
    # It ends in the last blank or in the last label.
    end_m, end_e = _at(blank_m, blank_e, lane, count)
    last_m, last_e = _at(label_m, label_e, lane, count - 1)
    total_m, total_e = _sum(end_m, end_e, last_m, last_e)
    loss = -LN_2 * (tl.log2(total_m) + total_e.to(tl.float64))
    loss = tl.where(total_m > 0, tl.maximum(loss, TINY), float("inf")) + wrong
    tl.store(exact + number, loss)
    tl.store(losses + number, tl.where(loss == float("inf"), 0.0, loss).to(tl.float32))


@triton.jit
def beta_kernel(
    logits, lse, labels, table, alphas, powers, exact, width, size, blank, floor,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The backward recursion of one utterance: writes over the forward variables in `alphas` the probability
    that a label is spoken at a frame, given the transcript.
    """
    number = tl.program_id(0)
    frames, count, first, kept = _utterance(table, number, tl.num_programs(0))
    loss = tl.load(exact + number)
    frames = tl.where(loss < float("inf"), frames, 0)
    power = -LOG2_E * tl.where(loss < float("inf"), loss, 0.0)
    total_e = tl.floor(power)
    inverse = 1.0 / tl.exp2(power - total_e)
    rows = logits + number.to(tl.int64) * width * size
    sums = lse + number.to(tl.int64) * width
    lane = tl.arange(0, BLOCK)
    here = lane < count
    label = tl.load(labels + first + lane, mask=here, other=0)
    before = tl.load(labels + first + lane - 1, mask=here & (lane > 0), other=0)
    skips = here & (lane > 0) & (label != before)
    right = tl.minimum(lane + 1, BLOCK - 1)
    # The backward variables times the probability of their frame. Behind the last frame all of it is in the
    # last blank.
    blank_m = tl.where(lane == count, 1.0, 0.0).to(tl.float64)
    blank_e = tl.where(lane == count, 0, ZERO)
    label_m = tl.full([BLOCK], 0.0, tl.float64)
    label_e = tl.full([BLOCK], 0, tl.int32) + ZERO
    frame = tl.maximum(frames - 1, 0)
    next_x = tl.load(rows + frame * size + label, mask=here, other=float("-inf"))
    next_blank = tl.load(rows + frame * size + blank)
    next_lse = tl.load(sums + frame)
    for done in range(frames):
        frame = frames - 1 - done
        place = kept + frame * count + lane
        alpha_m = tl.load(alphas + place, mask=here, other=0.0)
        alpha_e = tl.load(powers + place, mask=here, other=ZERO)
        p_m, p_e = _probability(next_x, next_lse, floor)
        q_m, q_e = _probability(next_blank, next_lse, floor)
        later = tl.maximum(frame - 1, 0)
        next_x = tl.load(rows + later * size + label, mask=here, other=float("-inf"))
        next_blank = tl.load(rows + later * size + blank)
        next_lse = tl.load(sums + later)
        # What a label may go on to in the next lane: its blank, and its label where that is another one.
        skip_m = tl.where(skips, label_m, 0.0)
        skip_e = tl.where(skips, label_e, ZERO)
        out_m, out_e = _sum(blank_m, blank_e, skip_m, skip_e)
        right_m = tl.where(here, tl.gather(out_m, right, 0), 0.0)
        right_e = tl.where(here, tl.gather(out_e, right, 0), ZERO)
        blank_m, blank_e = _sum(blank_m, blank_e, label_m, label_e)
        blank_m, blank_e = _normalise(blank_m * q_m, blank_e + q_e)
        beta_m, beta_e = _sum(label_m, label_e, right_m, right_e)
        share = alpha_m * beta_m * inverse
        share_e = tl.minimum(alpha_e + (beta_e - total_e.to(tl.int32)), 4)
        tl.store(alphas + place, tl.where(share > 0, _shift(share, share_e), 0.0), mask=here)
        label_m, label_e = _normalise(beta_m * p_m, beta_e + p_e)


@triton.jit
def gradient_kernel(
    logits, lse, labels, table, shares, exact, gradient, width, size, blank,
    BLOCK: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """The gradient of programs (frame, utterance) in `gradient`, (utterance, frame, logit): the probability
    of a logit less the sum of the `shares` of its labels.
    """
    frame = tl.program_id(0)
    number = tl.program_id(1)
    frames, count, first, kept = _utterance(table, number, tl.num_programs(1))
    loss = tl.load(exact + number)
    valid = (frame < frames) & (loss != float("inf"))
    count = tl.where(valid, count, 0)
    place = number.to(tl.int64) * width + frame
    sums = tl.load(lse + place)
    row = logits + place * size
    out = gradient + place * size
    shares += kept + frame.to(tl.int64) * count
    for start in range(0, size, BLOCK):
        logit = start + tl.arange(0, BLOCK)
        spoken = tl.full([BLOCK], 0.0, tl.float64)
        every = tl.full([LABELS], 0.0, tl.float64)
        for some in range(0, count, LABELS):
            lane = some + tl.arange(0, LABELS)
            here = lane < count
            label = tl.load(labels + first + lane, mask=here, other=-1)
            share = tl.load(shares + lane, mask=here, other=0.0)
            spoken += tl.sum(tl.where(logit[:, None] == label[None, :], share[None, :], 0.0), axis=1)
            every += share
        # The shares of all states sum to 1: what the labels leave is the blank's.
        spoken = tl.where(logit == blank, 1.0 - tl.sum(every, axis=0), spoken)
        x = tl.load(row + logit, mask=logit < size, other=float("-inf")).to(tl.float64)
        value = tl.exp2((x - sums) * LOG2_E) - spoken + (loss - loss)  # not a number where the loss is not
        value = tl.where(valid, value, 0.0)
        tl.store(out + logit, value.to(gradient.dtype.element_ty), mask=logit < size)
