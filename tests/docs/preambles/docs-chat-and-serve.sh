trained demo
