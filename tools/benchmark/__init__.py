"""The benchmark: jobs around the sysroots of a build, done by this project and by alternatives."""
