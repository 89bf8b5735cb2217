"""The modules that a decoding worker process imports when it starts."""

# By name: importing `imageset.normalize.tasks` in the process that starts the workers would delay them.
WORKER_MODULES = ("simplejpeg", "imageset.normalize.tasks")
