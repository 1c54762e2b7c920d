"""How all tests generate: no time-outs, for the machine may be busy with others."""

from hypothesis import HealthCheck, settings

settings.register_profile("millrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millrace")
