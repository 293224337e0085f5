"""Running a script of a member as a job: its environment, its folder, its curves and its outputs."""
