// The program of the three pages. It reads the secret from the fragment and posts it when the button is pressed.
"use strict";

const form = document.querySelector("form");
const button = form.querySelector("button");
const token = location.hash.slice(1);

class Refusal extends Error {}

/** One call of the API below which this page is; its JSON, or null where it has none. */
async function call(path, body, session) {
  let answer;
  try {
    answer = await fetch(`../v1/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(session ? { Authorization: `Bearer ${session}` } : {}) },
      body: JSON.stringify(body),
      credentials: "same-origin",
      referrerPolicy: "no-referrer",
    });
  } catch {
    throw new Refusal("The platform does not answer. Try again.");
  }
  const text = await answer.text();
  let json = null;
  try {
    json = text ? JSON.parse(text) : null;
  } catch {
    // Not ours: a proxy in between.
  }
  if (!answer.ok) throw new Refusal(json?.error?.message ?? `The platform answered ${answer.status}. Try again.`);
  return json;
}

const field = (name) => form.elements.namedItem(name).value;

const actions = {
  async "invitation"() {
    const signup = field("way") === "signup";
    const who = { email: field("email"), password: field("password") };
    const session = await call(signup ? "auth/signup" : "auth/login", signup ? { ...who, name: field("name") } : who);
    if (signup) {
      // The account exists from here on: a second press must log in.
      form.querySelector("[value=login]").checked = true;
      chooseWay();
    }
    try {
      const team = await call("invitations/accept", { token }, session.token);
      return `You are a member of ${team.name} now.`;
    } finally {
      // This page leaves nobody logged in.
      await call("auth/logout", {}, session.token).catch(() => {});
    }
  },
  async "verify-email"() {
    await call("auth/verify-email", { token });
    return "Your e-mail address is confirmed. You can close this page.";
  },
  async "reset-password"() {
    if (field("password") !== field("again")) throw new Refusal("The two passwords differ.");
    await call("auth/password-reset/confirm", { token, new_password: field("password") });
    return "Your password is changed. Log in with the new one.";
  },
};

function chooseWay() {
  const signup = field("way") === "signup";
  const name = document.getElementById("name-field");
  name.hidden = !signup;
  name.querySelector("input").required = signup;
  form.elements.namedItem("password").autocomplete = signup ? "new-password" : "current-password";
}

function show(id, text) {
  for (const other of ["error", "done"]) document.getElementById(other).textContent = other === id ? text : "";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  show("", "");
  button.disabled = true;
  try {
    const text = await actions[document.body.dataset.page]();
    // Used up: it need not stay in the history.
    history.replaceState(null, "", location.pathname);
    form.remove();
    show("done", text);
    document.getElementById("done").focus();
  } catch (error) {
    show("error", error instanceof Refusal ? error.message : "Something went wrong on this page. Load it again.");
  } finally {
    button.disabled = false;
  }
});

if (document.body.dataset.page === "invitation") {
  form.addEventListener("change", chooseWay);
  chooseWay();
}
if (!token) {
  form.remove();
  show("error", "The address of this page is not whole: open the link in the mail again, or copy all of it.");
}
