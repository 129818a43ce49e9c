//! What is generated.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{Error, ItemFn, Result, ext::IdentExt, spanned::Spanned};

use crate::{
    attributes::{self, Attributes, Lane},
    function::{self, ContextAs, Function, Parameter, Takes},
    units::Backoff,
};

pub(crate) fn task(attributes: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let span = function.span();
    let item: ItemFn = syn::parse2(function)
        .map_err(|_| Error::new(span, "`#[task]` stands on a function: `async fn name(…) -> …`, or without `async`"))?;
    let attributes = attributes::parse(attributes)?;
    let function = function::read(item, attributes.fallible)?;
    let is_async = function.item.sig.asyncness.is_some();
    let lane = match attributes.lane {
        None if is_async => Lane::Async,
        None => Lane::Blocking,
        Some((lane, span)) if is_async && lane != Lane::Async => {
            return Err(Error::new(span, "an async fn runs on the async lane; for this one write a plain `fn`"));
        }
        Some((lane, _)) => lane,
    };
    Ok(generate(&attributes, &function, lane))
}

/// Returns the task's name as an expression: the one that was given, else the function's path.
fn task_name(attributes: &Attributes, krate: &TokenStream, plain_name: &str) -> TokenStream {
    match (&attributes.name, &attributes.prefix) {
        (Some(name), _) => quote!(#name),
        (None, Some(prefix)) => quote! {{
            // The prefix may be the name of any constant: ours has one that nobody gives.
            const __LONGSHORE_NAME: [u8; (#prefix).len() + 1 + #plain_name.len()] = #krate::private::prefixed(#prefix, #plain_name);
            match ::core::str::from_utf8(&__LONGSHORE_NAME) {
                ::core::result::Result::Ok(name) => name,
                ::core::result::Result::Err(_) => #prefix,
            }
        }},
        (None, None) => quote! {{
            const PATH: &str = ::core::concat!(::core::module_path!(), "::", #plain_name);
            const BYTES: [u8; #krate::private::name_length(PATH)] = #krate::private::name_bytes(PATH);
            match ::core::str::from_utf8(&BYTES) {
                ::core::result::Result::Ok(name) => name,
                ::core::result::Result::Err(_) => PATH,
            }
        }},
    }
}

fn generate(attributes: &Attributes, function: &Function, lane: Lane) -> TokenStream {
    let krate = attributes.krate.as_ref().map_or_else(|| quote!(::longshore), |path| quote!(#path));
    let Function { item, parameters, .. } = function;
    let ident = &item.sig.ident;
    let visibility = &item.vis;
    let plain_name = ident.unraw().to_string();

    // What describes the function describes the task; what steers the compiler stays with the body;
    // `cfg` belongs to all.
    let (docs, others): (Vec<_>, Vec<_>) = item.attrs.iter().partition(|attribute| attribute.path().is_ident("doc"));
    let (cfgs, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|attribute| attribute.path().is_ident("cfg"));
    let docs = if docs.is_empty() {
        let text = format!("The task `{plain_name}`.");
        quote!(#[doc = #text])
    } else {
        quote!(#(#docs)*)
    };

    let name = task_name(attributes, &krate, &plain_name);

    let inputs = &item.sig.inputs;
    let output = &item.sig.output;
    let body = &item.block;
    let asyncness = &item.sig.asyncness;
    let result = result_type(&krate, function);

    // A text parameter takes whatever becomes a `String`, so that callers may write literals.
    let call_inputs = parameters.iter().map(|parameter| {
        let (ident, ty) = (&parameter.ident, &parameter.ty);
        if parameter.is_string() { quote!(#ident: impl ::core::convert::Into<#ty>) } else { quote!(#ident: #ty) }
    });
    let call_arguments = call_arguments(&krate, parameters);

    // The rest of what a `Task` is made of.
    let handler = handler(&krate, function, &plain_name, lane);
    let is_process = lane == Lane::Process;
    let lane = match lane {
        Lane::Async => quote!(Async),
        Lane::Blocking => quote!(Blocking),
        Lane::Cpu => quote!(Cpu),
        Lane::Process => quote!(Process),
    };
    let policy = policy(&krate, attributes, is_process);
    let call_doc = format!("A call of `{plain_name}` with these arguments, yet to be sent.");

    let told = hidden_result(&krate, function);

    // A type takes the function's name, so that `add::call` is a call of it, and a function that
    // gives the task, so that `App::task(add)` says which is meant, and `let add` still can be
    // written. The function itself is its `run`.
    quote! {
        #(#cfgs)*
        #docs
        #[allow(non_camel_case_types, dead_code, reason = "it stands where the function stood")]
        #visibility struct #ident {}

        #(#cfgs)*
        impl #ident {
            /// The name under which it is called.
            #[allow(dead_code, reason = "a program need not name it")]
            #visibility const NAME: &'static str = #name;

            /// The function itself, called at once.
            #[allow(dead_code, reason = "a program that only calls the task does not run it")]
            #(#others)*
            #visibility #asyncness fn run(#inputs) #output #body

            #[doc = #call_doc]
            #[allow(dead_code, reason = "a program need not call its own tasks")]
            #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "as many as the function has, and as it has them")]
            #visibility fn call(#(#call_inputs),*) -> #krate::private::Signature<#result> {
                #call_arguments
            }

            /// A call without arguments, yet to be given some and to be sent.
            #[allow(dead_code, reason = "a program need not call its own tasks")]
            #visibility fn signature() -> #krate::private::Signature<#result> {
                #krate::private::Signature::named(#ident::NAME).returns()
            }
        }

        #told

        #(#cfgs)*
        #[doc(hidden)]
        #[allow(dead_code, reason = "a program that only calls the task does not register it")]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, reason = "generated")]
        #visibility fn #ident() -> #krate::private::Task {
            #krate::private::Task {
                name: ::std::sync::Arc::from(#ident::NAME),
                lane: #krate::private::LaneKind::#lane,
                policy: #policy,
                handler: #handler,
            }
        }
    }
}

/// Returns the type of what comes back; of a `Result`, its `Ok` type.
fn result_type(krate: &TokenStream, function: &Function) -> TokenStream {
    let ty = &function.returns.ty;
    match &function.returns.alias {
        Some(alias) => quote_spanned!(alias.span()=> <#alias as #krate::private::Fallible>::Ok),
        None => quote!(#ty),
    }
}

/// Returns what refuses a `Result` under another name, of which nothing was said: it would be taken
/// for a value.
fn hidden_result(krate: &TokenStream, function: &Function) -> TokenStream {
    let ty = &function.returns.ty;
    if function.returns.fallible || matches!(ty, syn::Type::Tuple(_)) {
        return quote!();
    }
    let text = format!(
        "`{}` is a `Result` under another name, which `#[task]` cannot see: write `#[task(fallible)]`, or `Result<T, E>`",
        quote!(#ty).to_string().replace(" < ", "<").replace(" > ", ">").replace(" >", ">").replace(" ,", ",").replace(" :: ", "::")
    );
    quote_spanned! {ty.span()=>
        const _: () = {
            #[allow(unused_imports, reason = "it is used unless the type is a `Result`")]
            use #krate::private::NoResult as _;
            ::core::assert!(!#krate::private::Returned::<#ty>::IS_RESULT, #text);
        };
    }
}

/// Returns the call of a task with its arguments: those at its end that are `None` are left out, as
/// they may be absent for whoever runs it.
fn call_arguments(krate: &TokenStream, parameters: &[Parameter]) -> TokenStream {
    let mut call = quote!(Self::signature());
    let (mut places, mut least) = (0_usize, 0_usize);
    for parameter in parameters {
        let (ident, ty, name) = (&parameter.ident, &parameter.ty, parameter.name());
        let value = if parameter.is_string() { quote!(&::core::convert::Into::into(#ident)) } else { quote!(&#ident) };
        call = match &parameter.takes {
            Takes::One { none: true, .. } if parameter.by_name => quote!(#krate::private::optional_kwarg(#call, #name, #value)),
            Takes::One { .. } if parameter.by_name => quote!(#call.kwarg::<#ty>(#name, #value)),
            Takes::One { none, .. } => {
                places += 1;
                if !none {
                    least = places;
                }
                quote!(#call.arg::<#ty>(#value))
            }
            Takes::Args => quote!(#call.args::<#ty>(#value)),
            Takes::Kwargs => quote!(#call.kwargs::<#ty>(#value)),
        };
    }
    if least < places { quote!(#krate::private::without_nones(#call, #least, #places)) } else { call }
}

/// Returns the code that runs the function: arguments out of the message, the result into one.
fn handler(krate: &TokenStream, function: &Function, plain_name: &str, lane: Lane) -> TokenStream {
    let ident = &function.item.sig.ident;
    let parameters = function.parameters.iter().map(|parameter| {
        let name = parameter.name();
        match &parameter.takes {
            Takes::One { default: Some(_), .. } => quote!(#krate::private::Parameter::optional(#name)),
            Takes::One { default: None, .. } => quote!(#krate::private::Parameter::required(#name)),
            Takes::Args => quote!(#krate::private::Parameter::args(#name)),
            Takes::Kwargs => quote!(#krate::private::Parameter::kwargs(#name)),
        }
    });
    let names: Vec<_> = (0..function.parameters.len()).map(|place| format_ident!("argument_{place}")).collect();
    let takes = function.parameters.iter().zip(&names).map(|(parameter, name)| {
        let ty = &parameter.ty;
        // Whatever is wrong with the type is said where it stands.
        match &parameter.takes {
            Takes::One { default: Some(default), .. } => {
                quote_spanned!(ty.span()=> let #name: #ty = arguments.take_or::<#ty>(|| #default)?;)
            }
            Takes::One { default: None, .. } => quote_spanned!(ty.span()=> let #name: #ty = arguments.take::<#ty>()?;),
            Takes::Args | Takes::Kwargs => quote_spanned!(ty.span()=> let #name: #ty = arguments.take_further::<#ty>()?;),
        }
    });
    let context = match function.context {
        Some(ContextAs::Value) => quote!(context.clone(),),
        Some(ContextAs::Reference) => quote!(&context,),
        None => quote!(),
    };
    // An error's conversion is chosen by its type: failures, errors, whatever prints.
    let wait = function.item.sig.asyncness.map(|_| quote!(.await));
    let ty = result_type(krate, function);
    let reply = quote_spanned!(function.returns.ty.span()=> #krate::private::reply::<#ty>(&result));
    let answer = if function.returns.fallible {
        quote! {
            match result {
                ::core::result::Result::Ok(result) => #reply,
                ::core::result::Result::Err(error) => {
                    #[allow(unused_imports, reason = "which of them is needed depends on the error's type")]
                    use #krate::private::convert::{OfError as _, OfFailure as _, OfText as _, Wrong};
                    ::core::result::Result::Err((&mut &mut &mut Wrong(::core::option::Option::Some(error))).failure())
                }
            }
        }
    } else {
        reply
    };
    let mutable = if function.parameters.is_empty() { quote!() } else { quote!(mut) };
    // One body for both kinds of handlers: only the way around it differs.
    let steps = quote! {
        const PARAMETERS: &[#krate::private::Parameter] = &[#(#parameters),*];
        #[allow(unused_variables, reason = "a function without parameters has nothing to take")]
        let #mutable arguments = #krate::private::Arguments::bind(#plain_name, PARAMETERS, call)?;
        #(#takes)*
        let result = #ident::run(#context #(#names),*) #wait;
        #answer
    };
    let future = quote! {
        #krate::private::Handler::Async(::std::sync::Arc::new(|context: #krate::private::TaskContext, call: #krate::private::Call| {
            ::std::boxed::Box::pin(async move {
                let _ = &context;
                #steps
            })
        }))
    };
    let plain = quote! {
        #krate::private::Handler::Sync(::std::sync::Arc::new(|context: #krate::private::TaskContext, call: #krate::private::Call| {
            let _ = &context;
            #steps
        }))
    };
    if lane == Lane::Async { future } else { plain }
}

fn policy(krate: &TokenStream, attributes: &Attributes, isolated: bool) -> TokenStream {
    // Only what the attributes say is set: a default that changes reaches every task.
    let mut fields = Vec::new();
    let mut set = |field: &str, value: TokenStream| {
        let field = format_ident!("{field}");
        fields.push(quote!(policy.#field = #value;));
    };
    let some = |value: TokenStream| quote!(::core::option::Option::Some(#value));
    if let Some(queue) = &attributes.queue {
        set("queue", some(quote!(::std::sync::Arc::from(#queue))));
    }
    if let Some(priority) = attributes.priority {
        set("priority", some(quote!(#priority)));
    }
    match attributes.retries {
        Some(Some(retries)) => set("max_retries", some(quote!(#retries))),
        Some(None) => set("max_retries", quote!(::core::option::Option::None)),
        None => {}
    }
    if let Some(delay) = attributes.retry_delay {
        set("retry_delay", time(delay));
    }
    // Types to retry say nothing of the time between: Celery's backoff, then.
    let backoff = attributes.backoff.clone().or_else(|| {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(600));
        (!attributes.autoretry_for.is_empty()).then_some(Backoff::Exponential { base, cap })
    });
    if let Some(backoff) = backoff {
        let value = match backoff {
            Backoff::Exponential { base, cap } => {
                let (base, cap) = (time(base), time(cap));
                quote!(Exponential { base: #base, cap: #cap })
            }
            Backoff::Fixed(wait) => {
                let wait = time(wait);
                quote!(Fixed(#wait))
            }
            Backoff::List(waits) => {
                let waits = waits.into_iter().map(time);
                quote!(List(::std::vec![#(#waits),*]))
            }
        };
        set("autoretry", some(quote!(#krate::private::Backoff::#value)));
    }
    if !attributes.autoretry_for.is_empty() {
        let types = &attributes.autoretry_for;
        set("autoretry_for", quote!(::std::vec![#(::std::string::String::from(#types)),*]));
    }
    // Limits of time and of pace.
    if let Some(limit) = attributes.soft_timeout {
        set("soft_time_limit", some(time(limit)));
    }
    if let Some(limit) = attributes.timeout {
        set("time_limit", some(time(limit)));
    }
    if let Some(rate) = attributes.rate {
        let (count, per) = (rate.count, time(rate.per));
        set("rate_limit", some(quote!(#krate::private::Rate { count: #count, per: #per, burst: 1 })));
    }
    if attributes.rate_shared == Some(true) {
        set("rate_scope", quote!(#krate::private::RateScope::Shared));
    }
    // Acknowledgement and results.
    if let Some(early) = attributes.acks_early {
        set("acks", some(if early { quote!(#krate::private::Acks::Early) } else { quote!(#krate::private::Acks::Late) }));
    }
    for (field, value) in [
        ("acks_on_failure", attributes.acks_on_failure),
        ("ignore_result", attributes.ignore_result),
        ("track_started", attributes.track_started),
        ("errback", attributes.errback),
    ] {
        if let Some(value) = value {
            set(field, quote!(#value));
        }
    }
    if isolated {
        set("isolated", quote!(true));
    }
    let default = quote!(<#krate::private::TaskPolicy as ::core::default::Default>::default());
    if fields.is_empty() {
        return default;
    }
    quote!({
        let mut policy = #default;
        #(#fields)*
        policy
    })
}

fn time(time: Duration) -> TokenStream {
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the compiler would say, and the text that it would underline.
    fn refused(attributes: &str, function: &str) -> (String, String) {
        let error = match task(attributes.parse().unwrap(), function.parse().unwrap()) {
            Ok(_) => panic!("accepted: #[task({attributes})] {function}"),
            Err(error) => error,
        };
        (error.to_string(), error.span().source_text().unwrap_or_default())
    }

    #[test]
    fn what_cannot_be_a_task_is_refused_where_it_stands() {
        for (function, says, at) in [
            ("struct X;", "`#[task]` stands on a function", "struct X;"),
            ("fn f<T>(x: T) {}", "cannot be generic", "<T>"),
            ("fn f<'a>(x: u8) {}", "cannot be generic", "<'a>"),
            ("fn f(&self) {}", "no `self`", "&self"),
            ("fn f(x: &str) {}", "take `String`", "&str"),
            ("fn f(x: &[u8]) {}", "take a `Vec`", "&[u8]"),
            ("fn f(x: &u8) {}", "take the type without `&`", "&u8"),
            ("fn f(x: impl Sized) {}", "its type must be named", "impl Sized"),
            ("fn f((a, b): (u8, u8)) {}", "a plain name", "(a, b)"),
            ("fn f(x: u8, context: TaskContext) {}", "the context is the first parameter", "TaskContext"),
            ("fn f(#[default(1)] x: u8, y: u8) {}", "`y` is required, but `x` before it is not", "y"),
            ("fn f(x: Option<u8>, y: u8) {}", "`y` is required, but `x` before it is not", "y"),
            ("fn f(#[default] #[default(1)] x: u8) {}", "one default is enough", "#[default(1)]"),
            ("fn f() -> impl Sized {}", "its type must be named", "impl Sized"),
            ("fn f() -> &'static str {}", "return an owned value", "&'static str"),
            ("fn f() -> ! {}", "a task must end", "!"),
            ("fn f(#[kwargs] x: Map, y: u8) {}", "it is the last parameter", "y"),
            ("fn f(#[args] x: Vec<u8>, #[args] y: Vec<u8>) {}", "one `#[args]` takes all", "y"),
            ("fn f(#[args] #[kwargs] x: Map) {}", "`#[args]` is enough", "#[kwargs]"),
            ("fn f(#[args] #[default] x: Vec<u8>) {}", "it is empty where nothing is given", "#[default]"),
            ("fn f(#[args(3)] x: Vec<u8>) {}", "unexpected token", "("),
            ("unsafe fn f() {}", "cannot be unsafe", "unsafe"),
            ("const fn f() {}", "cannot be const", "const"),
        ] {
            let (text, span) = refused("", function);
            assert!(text.contains(says), "{function}: {text}");
            assert_eq!(span, at, "{function}");
        }
    }

    #[test]
    fn words_that_are_wrong_are_refused_with_the_way_out() {
        for (attributes, says, at) in [
            ("retrys = 3", "did you mean `retries`?", "retrys"),
            ("max_retries = 3", "did you mean `retries`?", "max_retries"),
            ("soft_time_limit = 3", "did you mean `soft_timeout`?", "soft_time_limit"),
            ("colour = 3", "there are name, prefix, lane, queue, priority, retries", "colour"),
            ("retries = 3, retries = 4", "stands here twice", "retries"),
            ("retries = \"many\"", "is a number, or \"forever\"", "\"many\""),
            ("retries", "takes a number", "retries"),
            ("timeout = 60", "takes a string", "60"),
            ("timeout = \"60\"", "write a number and a unit", "\"60\""),
            ("timeout = \"0s\"", "would end every attempt", "\"0s\""),
            ("lane = \"gpu\"", "there are \"async\", \"blocking\", \"cpu\" and \"process\"", "\"gpu\""),
            ("rate = \"10\"", "write how many in what time", "\"10\""),
            ("acks = \"never\"", "is not when to acknowledge", "\"never\""),
            ("backoff = \"1s\"", "is not a backoff", "\"1s\""),
            ("autoretry_for = \"OSError\"", "takes a list of types", "\"OSError\""),
            ("rate_shared = \"yes\"", "is true or false", "\"yes\""),
            ("ignore_result = 1", "is true or false", "1"),
            ("name = \"a b\"", "has no spaces", "\"a b\""),
            ("prefix = \"a.\"", "which comes by itself", "\"a.\""),
            ("prefix = 3", "the name of a constant", "3"),
            ("prefix = \"a\", name = \"b\"", "write one of the two", "\"b\""),
        ] {
            let (text, span) = refused(attributes, "fn f() {}");
            assert!(text.contains(says), "{attributes}: {text}");
            assert_eq!(span, at, "{attributes}");
        }
        let (text, _) = refused("timeout = \"5s\", soft_timeout = \"5s\"", "fn f() {}");
        assert!(text.contains("must be shorter"), "{text}");
        let (text, _) = refused("rate_shared", "fn f() {}");
        assert!(text.contains("write the rate too"), "{text}");
        let (text, span) = refused("lane = \"cpu\"", "async fn f() {}");
        assert!(text.contains("an async fn runs on the async lane"), "{text}");
        assert_eq!(span, "lane");
    }
}
