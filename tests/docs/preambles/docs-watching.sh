# a finished run
trained demo
