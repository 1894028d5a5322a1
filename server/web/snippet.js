// The request of the page as a command and as a program. A key is never part of it.

const OPENAI = ["prompt", "max_tokens", "n", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop"];

/** `origin` is where the server is, `hasKey` whether it wants one. */
export function curl(origin, body, hasKey) {
  const data = JSON.stringify({ ...body, stream: true }).replaceAll("'", "'\\''");
  const lines = [`curl -N ${origin}/v1/completions`, "-H 'Content-Type: application/json'"];
  if (hasKey) lines.push('-H "Authorization: Bearer $GPT2_SERVER_KEY"');
  lines.push(`-d '${data}'`);
  return lines.join(" \\\n  ");
}

export function python(origin, model, body, hasKey) {
  const key = hasKey ? 'os.environ["GPT2_SERVER_KEY"]' : '"none"';
  const own = OPENAI.filter((name) => name in body).map((name) => [name, body[name]]);
  const others = Object.entries(body).filter(([name]) => !OPENAI.includes(name));
  const lines = [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=${key})`,
    "events = client.completions.create(",
    `    model=${JSON.stringify(model)},`,
    ...own.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    ...(others.length ? [`    extra_body=${JSON.stringify(Object.fromEntries(others))},`] : []),
    "    stream=True,",
    ")",
    "for event in events:",
    "    for choice in event.choices:",
    '        print(choice.text, end="", flush=True)',
  ];
  return lines.join("\n");
}
