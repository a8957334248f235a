"""Options and progress bars that several verbs of the command line share."""
