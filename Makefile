# Every target is bootstrap.py's; without make: `py bootstrap.py demo` (Windows) or `python3 bootstrap.py demo`.
#   make demo ARGS="--minutes 5"     make test ROOM=data     make test ARGS="-k tokenizer"     make PYTHON=python3.12 test
PYTHON ?= python3

demo test soak lint bench wheel install:
	@$(PYTHON) bootstrap.py $@ $(if $(ROOM),--room $(ROOM)) $(if $(JOBS),--jobs $(JOBS)) $(if $(ARGS),-- $(ARGS))

.PHONY: demo test soak lint bench wheel install
.DEFAULT_GOAL := demo
