"""The modules that a decode worker imports when it starts."""

# Names rather than imports: importing `imageset.normalize.tasks` in the parent would delay the start of workers.
WORKER_MODULES = ("simplejpeg", "imageset.normalize.tasks")
