"""The adapters: modules that run under other Pythons as the package `baseline_runners`; see the package around it."""
