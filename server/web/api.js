// Requests to the server that this page came from, and to nobody else.

const KEY = "gpt2-server.key";

/** An answer that is not 200. `waitS` is what Retry-After says, in seconds. */
export class Refusal extends Error {
  constructor(status, message, waitS = null) {
    super(message);
    this.status = status;
    this.waitS = waitS;
  }
}

/** The key of this tab; sessionStorage ends with it. */
export function readKey() {
  return sessionStorage.getItem(KEY) || "";
}

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** GET, or POST where there is a body. Throws Refusal, or AbortError where `signal` ends it. */
export async function send(path, body, signal) {
  const headers = {};
  if (readKey()) headers.Authorization = `Bearer ${readKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { headers, signal, credentials: "omit", cache: "no-store" };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server cannot be reached.");
  }
  if (!answer.ok) throw await refusalOf(answer);
  return answer;
}

export async function get(path) {
  return (await send(path)).json();
}

export async function post(path, body, signal) {
  return (await send(path, body, signal)).json();
}

async function refusalOf(answer) {
  const waitS = Number(answer.headers.get("Retry-After")) || null;
  let message = `The server answered with status ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // Not from this server, but from a proxy before it.
  }
  return new Refusal(answer.status, message, waitS);
}

/** The objects of a stream of events. Throws Refusal for an error in it, and without an end mark. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal(0, "The stream broke off before its end.");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue; // a comment that keeps the stream alive
      const data = block.slice("data: ".length);
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refusal(503, told.error.message);
      yield told;
    }
  }
}
