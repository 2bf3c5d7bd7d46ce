"""The benchmark: jobs of a build's sysroots, done by this and by what people would use instead."""
