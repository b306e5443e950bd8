"""The workplaces of tests/support/workplace.py."""

from workplace import plant_bombs_fixture, tiny_model, uninterrupted, workplace

__all__ = ["plant_bombs_fixture", "tiny_model", "uninterrupted", "workplace"]
