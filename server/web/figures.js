// The strip of figures, and what is known of the model and the server.

import { get } from "./api.js";

const BUSY_MS = 1000;
const IDLE_MS = 10000;
const SOON_MS = 300; // what the engine last said of itself is not much older

const show = (id, text) => { document.getElementById(id).textContent = text; };

/** Times of one answer, from its events as they arrive. */
export class Stopwatch {
  constructor() {
    this.beganMs = performance.now();
    this.firstMs = null;
    this.numTokens = 0;
    show("rate", "–");
    show("first", "–");
    show("ended", "…");
  }

  /** `count` more tokens are here. */
  tick(count) {
    if (!count) return;
    const nowMs = performance.now();
    this.numTokens += count;
    if (this.firstMs === null) {
      this.firstMs = nowMs;
      show("first", `${Math.round(nowMs - this.beganMs)} ms`);
    }
    // Since the request was sent: events that a busy browser reads late come all at once.
    const rate = this.numTokens / ((nowMs - this.beganMs) / 1000);
    show("rate", rate < 10 ? rate.toFixed(1) : Math.round(rate).toString());
  }

  end(samples, contextLen) {
    const reasons = [...new Set(samples.map((sample) => sample.finishReason || "stopped"))];
    show("ended", reasons.join(", "));
    const [first] = samples;
    show("seed-used", first.seed === null ? "–" : String(first.seed));
    if (first.promptIds) show("context", `${first.promptIds.length + first.ids.length} / ${contextLen}`);
  }
}

/** Slots in use: asked often while this page generates, seldom otherwise, never when hidden. */
export class SlotWatch {
  constructor() {
    this.isBusy = false;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.again());
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), SOON_MS);
  }

  async ask() {
    try {
      const { data } = await get("v1/models");
      this.show(data[0]);
    } catch {
      show("slots", "–");
    }
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), this.isBusy ? BUSY_MS : IDLE_MS);
  }

  show(model) {
    const waiting = model.num_waiting ? ` + ${model.num_waiting} waiting` : "";
    show("slots", `${model.num_slots_in_use} / ${model.num_slots}${waiting}`);
  }
}

/** The list of facts. */
export function showFacts(model, version) {
  const facts = {
    model: model.id,
    parameters: model.num_parameters.toLocaleString("en"),
    shape: `${model.num_layers} layers, ${model.num_channels} channels, ${model.num_heads} heads`,
    vocabulary: model.vocab_size.toLocaleString("en"),
    context: `${model.max_model_len.toLocaleString("en")} tokens`,
    device: model.device,
    weights: `${model.dtype} (cache ${model.kv_dtype})`,
    kernels: model.kernels,
    slots: String(model.num_slots),
    "weights hash": model.weights_hash,
    fingerprint: model.system_fingerprint,
    server: version,
  };
  const rows = Object.entries(facts).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const fact = document.createElement("dd");
    term.textContent = name;
    fact.textContent = value;
    return [term, fact];
  });
  document.getElementById("facts").replaceChildren(...rows);
}
