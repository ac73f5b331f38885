"""Plans of several methods, deployed on one emulated cluster."""
