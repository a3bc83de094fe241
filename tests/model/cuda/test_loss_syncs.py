"""The CTC loss on a CUDA device, which the stand-in counts."""

import pytest
from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda

PROGRAM = """
import logging, sys, warnings
from asr_exp.core.errors import UserError
from asr_exp.model.loss import ctc_losses
from asr_exp.model.recogniser import Emissions

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("asr_exp").addHandler(handler)

def counted(frames, lengths, training=True, reduction="mean"):
    logits = torch.zeros(len(frames), max(frames), 32, device="cuda", requires_grad=training)
    labels = torch.ones(sum(lengths), dtype=torch.int64, device="cuda")
    with torch.set_grad_enabled(training):
        for _ in range(2):  # the first compiles
            with Counts() as counts:
                losses = ctc_losses(Emissions(logits, frames), labels, lengths, 0, reduction)
                if training:
                    losses.sum().backward()
    return counts.summary()

def refused(*shape):
    torch.use_deterministic_algorithms(True)
    try:
        counted(*shape)
    except UserError as error:
        return str(error)
    finally:
        torch.use_deterministic_algorithms(False)
"""
SHAPE, TOO_LONG = "[500, 490, 7], [50, 60, 0]", "[9000], [4096]"


@pytest.fixture(scope="module")
def found():
    return figures(f"""{PROGRAM}
result = dict(
    training=counted({SHAPE}), scoring=counted({SHAPE}, False), refused=refused({SHAPE}),
    long=counted({TOO_LONG}), long_refused=refused({TOO_LONG}), said=said[:],
)
from asr_exp.model import loss
sys.modules['asr_exp.model.ctc'] = None
loss._problem.cache_clear()
result |= dict(without=counted({SHAPE}), without_refused=refused({SHAPE}), said_without=said[:])
""")


def test_the_loss_waits_for_nothing(found):
    training, scoring = found["training"], found["scoring"]
    assert training["syncs"] == scoring["syncs"] == {}
    assert training["launches"] <= 12
    assert scoring["launches"] <= 5
    assert not any("pageable" in name for name in {**training["copies"], **scoring["copies"]})
    assert found["refused"] is None
    assert found["said"] == []


def test_torch_computes_it_where_the_kernels_cannot(found):
    """A transcript that is too long, and a machine without triton: said once, and refused where the result
    has to be deterministic.
    """
    assert found["long"]["syncs"] and found["without"]["syncs"]
    assert "a transcript has 4096 labels" in found["long_refused"]
    assert found["without_refused"].startswith(
        "trainer.deterministic=true: torch's CTC loss is not deterministic on CUDA"
    )
    (said,) = found["said_without"]
    assert "The CTC loss is left to torch" in said
