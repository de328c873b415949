"""How many examples a property test tries: few, always the same, in a daily run; many new ones in a nightly one.

``BCT_NIGHTLY=1 pytest`` is the nightly run. Neither fails because a machine is slow.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

NIGHTLY = os.environ.get("BCT_NIGHTLY") == "1"
TIMES = 20
"""As many examples in a nightly run as in a daily one."""


def examples(daily: int) -> settings:
    """``@examples(40)`` above ``@given``: a test whose examples are cheaper or dearer than most."""
    return settings(
        max_examples=daily * TIMES if NIGHTLY else daily,
        derandomize=not NIGHTLY,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


PROFILE = "bct"
settings.register_profile(PROFILE, examples(50))
