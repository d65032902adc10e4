"""Gymnasium's classic control, and tasks of your own, as torch functions of all environments at once on any device."""
