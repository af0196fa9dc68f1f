"""The adapters and retentions that can be named, and what is known of each before it is built.

Each kind is declared once, in a file of its own: its settings and their ranges, its sizes, what it
does not go with. The library (`curlora`) and experiment files (`orchestrator.spec`) both read it
here. Importing `curlora` loads torch and PEFT, with which it registers; this package needs neither,
so that a wrong file is refused at once.
"""
