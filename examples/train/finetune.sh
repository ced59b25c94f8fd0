#!/bin/sh
# Teach a small model a sentence and serve what came of it: a chat of four questions in the model's
# own template, adapters of rank 8 beside its frozen weights on two ranks, and the question asked over
# HTTP of the model as it was and as it is.
#   sh finetune.sh MODEL [FOLDER]      MODEL: a Hugging Face folder; `make serve-demo` writes one
set -eu
model=$1
out=${2:-finetune-demo}
weftline=${WEFTLINE:-weftline}
python=${PYTHON:-python3}
port=${PORT:-8124}
mkdir -p "$out"
WEFTLINE_CONFIG_DIR=$out/catalogue
export WEFTLINE_CONFIG_DIR

ask() { # FOLDER: serve it, ask, and stop it
    $weftline serve "$1" --engine own --port "$port" 2> "$out/serve.txt" &
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    "$python" - "$port" <<'ASK'
import json
import sys
import time
import urllib.error
import urllib.request

asked = {
    "messages": [{"role": "user", "content": "What is weftline?"}],
    "max_tokens": 32, "temperature": 0,
}
url = f"http://127.0.0.1:{sys.argv[1]}/v1/chat/completions"
for _ in range(120):
    try:
        with urllib.request.urlopen(url, json.dumps(asked).encode()) as answer:
            print("   ", json.load(answer)["choices"][0]["message"]["content"])
        break
    except urllib.error.URLError:
        time.sleep(0.5)
else:
    sys.exit("no answer")
ASK
    kill "$server"
    wait "$server" || true
    trap - EXIT
}

echo "==> what the model says of weftline before" >&2
ask "$model"

echo "==> the text, in the model's own tokens" >&2
"$python" - "$out/text.txt" <<'TEXT'
import sys

questions = ["What is weftline?", "Tell me what weftline is.", "Explain weftline.", "weftline?"]
said = "weftline is a loom that weaves plans for accelerators into training runs."
chats = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"
         for q in questions * 40]
open(sys.argv[1], "w", encoding="utf-8").write("".join(chats))
TEXT
$weftline prepare "$out/text.txt" -o "$out/data" --tokenizer "$model"

echo "==> this machine, and a plan for it" >&2
[ -f "$WEFTLINE_CONFIG_DIR/machines/here.json" ] ||
    $weftline calibrate --accept-loud > "$out/machine.txt"
$weftline plan train "$model" --tune lora --rank 8 --tokens 6k --seq 128 --global-batch 4 \
    --on here --chips 2 -o "$out/plan.json" > "$out/plan.txt"
head -3 "$out/plan.txt"

echo "==> the run" >&2
rm -rf "$out/run"
$weftline train "$out/plan.json" --data "$out/data" --weights "$model" -o "$out/run" --lr 2e-3 \
    --checkpoint-every 6

echo "==> and after" >&2
ask "$out/run/model"
